"""The pages written from the project: claims with their verdicts, and which function gives which curve."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pages import BOOK, PACKAGES, ROOT, Page

from sims import claims, records
from sims.contract import VERDICTS, Experiment

WORDS = {"holds": "holds", "fails": "fails", "regime": "holds in a regime", "not_measured": "not measured"}


def ledger(kept: Path = BOOK / "_build" / "ledger.json") -> list[dict[str, Any]]:
    """The claims as `python -m sims claims --json` prints them.

    Checks recompute every prediction, which takes seconds; so the answer is kept in the file `kept`, with a key of
    what it rests on: the code of both packages, the committed records, and the runs in the local store.
    """
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    files += (path for path in (BOOK / "recorded").glob("*") if path.is_file())
    key = hashlib.sha256()
    for path in sorted(files):
        key.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    for path in sorted(records.results_folder().rglob("*")):
        key.update(f"{path} {path.stat().st_mtime_ns}".encode())
    if kept.is_file():
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["key"] == key.hexdigest():
            rows: list[dict[str, Any]] = known["rows"]
            return rows
    rows = claims.as_objects(claims.ledger())
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"key": key.hexdigest(), "rows": rows}), encoding="utf-8")
    return rows


def write_generated_pages(
    experiments: Sequence[Experiment], pages: Sequence[Page], book: Path = BOOK
) -> list[str]:
    """Write both pages below book/generated/ where their text changed; return the names of those that did."""
    texts = {"claims": claims_page(ledger(), experiments), "curves": curves_page(experiments, pages)}
    folder = book / "generated"
    folder.mkdir(exist_ok=True)
    changed = []
    for name, text in texts.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(f"generated/{name}")
    return changed


def badge(verdict: str) -> str:
    """A verdict as a coloured word."""
    return f"[{WORDS[verdict]}]{{.verdict .verdict-{verdict.replace('_', '-')}}}"


def number(value: float | None) -> str:
    """Four significant digits, or a dash for what does not exist."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4g}".replace("-", "−")


def claims_page(rows: list[dict[str, Any]], experiments: Sequence[Experiment]) -> str:
    """The ledger as MyST: a summary table, then a section for each claim, labelled `claim-<id>`."""
    effects = {claim.id: claim.effect for experiment in experiments for claim in experiment.claims}
    references = (BOOK / "references.bib").read_text(encoding="utf-8")
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}
    tally = ", ".join(f"{count} {badge(verdict)}" for verdict, count in counts.items() if count)
    lines = [
        "# Claims and verdicts",
        "",
        "This page is written from records of runs, as `python -m sims claims` prints them; nobody types a",
        "verdict. Each claim had its effect size fixed before it was measured, and a claim that fails stays.",
        "",
        f"Of {len(rows)} claims: {tally}." if rows else "No claim has been stated yet.",
        "",
    ]
    if rows:
        lines += ["| claim | verdict | statement | measured | predicted |", "|:--|:--|:--|--:|--:|"]
        lines += [
            f"| [{row['id']}](#{_label(row['id'])}) | {badge(row['verdict'])} | {_cell(row['statement'])} "
            f"| {number(row['measured'])} | {number(row['predicted'])} |"
            for row in rows
        ]
        lines.append("")
    for row in rows:
        interval = row.get("interval") or (None, None)
        lines += [
            f"({_label(row['id'])})=",
            f"## {row['id']}",
            "",
            f"{badge(row['verdict'])} {row['statement']}",
            "",
            f":What would count: {effects.get(row['id'], '–')}",
            f":Measured: {number(row['measured'])} (95 %: {number(interval[0])} to {number(interval[1])})",
            f":Predicted: {number(row['predicted'])}",
            f":Claimed by: {_source(row['paper'], references)}",
            f":Repeat it: `python -m sims run {row['experiment']} --scale {row['scale'] or 'laptop'}`",
            *([f":Note: {row['note']}"] if row.get("note") else []),
            "",
        ]
    return "\n".join(lines)


def curves_page(experiments: Sequence[Experiment], pages: Sequence[Page]) -> str:
    """For every experiment: its question, its figures, and the functions of `theory` behind its curves."""
    lines = [
        "# Which function gives which curve",
        "",
        "In every figure a line is theory and points or bands are simulation. This page says which function",
        "computes each line, which call repeats the figure, and which chapter tells its story. It is written",
        "from the code of the experiments.",
        "",
    ]
    if not experiments:
        lines += ["There is no experiment yet.", ""]
    for experiment in experiments:
        name = experiment.name
        told = [page for page in pages if name in {used for used, _ in page.names.experiments}]
        lines += [f"## `{name}`", "", experiment.question, ""]
        functions = theory_functions(experiment)
        if functions:
            lines += [
                "Lines come from " + ", ".join(_reference(function) for function in functions) + ".",
                "",
            ]
        if told:
            lines += ["Told in " + ", ".join(f"{{doc}}`/{page.name}`" for page in told) + ".", ""]
        if experiment.figures:
            lines += [
                f'- `sims.run("{name}").figure("{figure}")`: {_first_line(function)}'
                for figure, function in experiment.figures.items()
            ]
            lines.append("")
    return "\n".join(lines)


def theory_functions(experiment: Experiment) -> list[str]:
    """Full names of what `predict` uses from `theory`, itself or through helpers of its file."""
    tree = ast.parse(inspect.getsource(experiment.module))
    local = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    found: dict[str, None] = {}
    waiting, seen = ["predict"], set()
    while waiting:
        name = waiting.pop(0)
        if name in seen or name not in local:
            continue
        seen.add(name)
        for dotted in _dotted_names(local[name]):
            waiting.append(dotted)
            target = _resolve(experiment.module, dotted)
            origin = getattr(target, "__module__", "") or ""
            if callable(target) and (origin == "theory" or origin.startswith("theory.")):
                found[f"{origin}.{getattr(target, '__qualname__', dotted)}"] = None
    return list(found)


def _dotted_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if all(part.isidentifier() for part in text.split(".")):
                yield text


def _resolve(module: object, dotted: str) -> object:
    target: object = module
    for part in dotted.split("."):
        target = getattr(target, part, None)
    return target


def _reference(function: str) -> str:
    public = not any(part.startswith("_") for part in function.split("."))
    return f"{{py:obj}}`~{function}`" if public else f"`{function}`"


def _source(paper: str, references: str) -> str:
    """A paper as a citation where its arXiv number stands in references.bib."""
    for entry in references.split("@")[1:]:
        number = re.search(r"arXiv:(\d{4}\.\d{5})", entry)
        if number and number.group(1) in paper:
            key = entry.split("{", 1)[1].split(",", 1)[0]
            return re.sub(rf"(arXiv[ :]*)?{re.escape(number.group(1))}", f"{{cite:t}}`{key}`", paper)
    return "this book" if paper == "ours" else paper


def _label(identifier: str) -> str:
    return f"claim-{identifier.lower()}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _first_line(function: object) -> str:
    return (getattr(function, "__doc__", None) or "no description.").strip().splitlines()[0]
