"""The ledger: every claim of every experiment with its verdict, from records, or from runs when asked for.

Claims are evaluated anew each time from the measurements; only the verdicts file in book/recorded keeps what
came out, so that a flipped verdict shows as a difference in a commit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sims import contract, engine, recorded, records
from sims.contract import Claim, ClaimResult, Finding
from sims.outcome import Outcome

COLUMNS = ("id", "paper", "statement", "measured", "interval", "predicted", "verdict", "experiment", "scale")
SIGNIFICANT_DIGITS = 4


def verdicts_path() -> Path:
    """The committed ledger, book/recorded/verdicts.json."""
    return recorded.RECORDED_FOLDER / "verdicts.json"


def available(reference: str) -> Outcome | None:
    """The largest outcome at hand without running anything: a committed record, else a complete set of stored
    runs."""
    plans = [contract.plan(reference, scale) for scale in reversed(contract.SCALE_NAMES)]
    for find in (engine.from_record, engine.from_store):
        for plan in plans:
            if (outcome := find(plan)) is not None:
                return outcome
    return None


def _result(claim: Claim, finding: Finding, experiment: str, scale: str) -> ClaimResult:
    said = (claim.id, claim.paper, claim.statement, claim.effect)
    seen = (finding.measured, finding.interval, finding.predicted, finding.verdict)
    return ClaimResult(*said, *seen, experiment, scale, finding.note)


def _not_measured(claim: Claim, experiment: str, note: str) -> ClaimResult:
    finding = Finding(math.nan, (math.nan, math.nan), None, "not_measured", note)
    return _result(claim, finding, experiment, "")


def evaluate(claim: Claim, outcome: Outcome) -> ClaimResult:
    """What an outcome says about one claim of its experiment; other experiments are taken as `available`.

    Where one of these has neither a record nor stored runs, the verdict is not_measured. So it is when a
    check cannot work on runs with settings of one's own, such as an axis that is no longer there, and when the
    measured value is NaN.
    """
    outcomes = [] if claim.experiments else [outcome]
    for name in claim.experiments:
        other = outcome if name == outcome.name else available(name)
        if other is None:
            return _not_measured(claim, outcome.name, f"{name} has no record")
        outcomes.append(other)
    try:
        finding = _found(claim, *outcomes)
    except Exception:
        if outcome.plan.is_preset:
            raise
        return _not_measured(claim, outcome.name, "needs the axes and seeds of the scale itself")
    return _result(claim, finding, outcome.name, outcome.scale)


def _found(claim: Claim, *outcomes: Outcome) -> Finding:
    finding = claim.check(*outcomes)
    if not isinstance(finding, Finding):
        raise ValueError(
            f"check of claim {claim.id} returned a {type(finding).__name__}; it must be a Finding."
        )
    if math.isnan(finding.measured) and finding.verdict != "not_measured":
        return dataclasses.replace(finding, verdict="not_measured", note="there is no number to judge by")
    return finding


def ledger(
    run: bool = False,
    names: Iterable[str] | None = None,
    *,
    scale: str = "laptop",
    workers: int | None = None,
) -> list[ClaimResult]:
    """All claims, sorted by id, evaluated from the largest record, else from stored runs, else not_measured.

    - `run`: make what is missing, at `scale`; what has a record is not run again.
    - `names`: experiments; by default all of them.

    Raises ValueError when two experiments use one id.
    """
    results: list[ClaimResult] = []
    for name in contract.experiment_names() if names is None else names:
        found = contract.experiment(name)
        if run:
            for needed in {name, *(other for claim in found.claims for other in claim.experiments)}:
                if available(name if needed == found.name else needed) is None:
                    engine.run(needed, scale, workers=workers)
        outcome = available(name)
        if outcome is None:
            results += [
                _not_measured(claim, found.name, "no record; --run measures it") for claim in found.claims
            ]
        else:
            results += outcome.claims
    identifiers = [one.id for one in results]
    if repeated := sorted({one for one in identifiers if identifiers.count(one) > 1}):
        raise ValueError(f"claim id {repeated[0]} is used by two experiments; an id names one claim.")
    return sorted(results, key=lambda one: _natural(one.id))


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key with A2 before A10."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part
    ]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def as_objects(results: Sequence[ClaimResult]) -> list[dict[str, Any]]:
    """The results as plain data for JSON, which has no NaN: null stands for what is not a finite number."""
    objects = []
    for one in results:
        row = {name: getattr(one, name) for name in COLUMNS}
        row |= {
            "measured": _number(one.measured),
            "predicted": _number(one.predicted),
            "scale": one.scale or None,
        }
        row["interval"] = [_number(bound) for bound in one.interval]
        objects.append(row)
    return objects


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def verdict_objects(results: Sequence[ClaimResult]) -> list[dict[str, Any]]:
    """As in the verdicts file: sorted by id, numbers with four significant digits, so that differences are
    quiet."""
    rows = as_objects(sorted(results, key=lambda one: _natural(one.id)))
    for row in rows:
        row |= {name: _rounded(row[name]) for name in ("measured", "predicted")}
        row["interval"] = [_rounded(bound) for bound in row["interval"]]
    return rows


def write_verdicts(results: Sequence[ClaimResult]) -> Path:
    """Write the verdicts file; returns its path."""
    text = json.dumps(verdict_objects(results), indent=1, ensure_ascii=False, allow_nan=False)
    records.write_text(verdicts_path(), text + "\n")
    return verdicts_path()


def read_verdicts() -> list[dict[str, Any]]:
    """The verdicts file; empty when there is none. Raises ValueError when it is corrupt."""
    path = verdicts_path()
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"verdicts file {path} is not valid JSON: {error}.") from error
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and set(COLUMNS) <= set(row) for row in rows
    ):
        raise ValueError(f"verdicts file {path} must be a list of objects with {', '.join(COLUMNS)}.")
    return rows


def table(results: Sequence[ClaimResult]) -> str:
    """The results for a terminal: one line of numbers a claim, its statement below."""
    if not results:
        return "no claims"
    lines = []
    for one in results:
        low, high = one.interval
        interval = f" [{low:.4g}, {high:.4g}]" if math.isfinite(low) and math.isfinite(high) else ""
        measured = f"measured {one.measured:.4g}{interval}" if math.isfinite(one.measured) else ""
        predicted = "" if one.predicted is None else f"predicted {one.predicted:.4g}"
        origin = f"{one.experiment} at {one.scale} scale" if one.scale else one.experiment
        numbers = "; ".join(part for part in (measured, predicted, origin) if part)
        lines.append(f"{one.id:<6} {one.verdict.replace('_', ' '):<13} {numbers}")
        lines.append(f"       {one.statement} ({one.paper})" + (f"; {one.note}" if one.note else ""))
    counts = {verdict: sum(one.verdict == verdict for one in results) for verdict in contract.VERDICTS}
    summary = ", ".join(f"{count} {verdict.replace('_', ' ')}" for verdict, count in counts.items() if count)
    return "\n".join([*lines, f"{len(results)} claims: {summary}"])
