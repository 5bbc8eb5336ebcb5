"""The ledger: from records, from stored runs, from nothing; and its JSON."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from sims import claims, contract, engine
from sims.contract import Claim, ClaimResult, Finding
from sims.recorded import write_recorded

pytestmark = pytest.mark.usefixtures("store")

RESULT = ClaimResult(
    "A1", "ours", "It holds.", "d > 1.", 1.23456, (1.0, math.nan), None, "holds", "toy", "smoke", "a note"
)


def test_the_ledger_takes_the_largest_record_then_the_store_then_nothing(toy: str) -> None:
    (nothing,) = claims.ledger(names=[toy])
    assert (nothing.verdict, nothing.scale) == ("not_measured", "")
    engine.run(toy, "laptop", workers=1)
    assert [one.scale for one in claims.ledger(names=[toy])] == ["laptop"]
    write_recorded(engine.run(toy, "smoke"))
    (found,) = claims.ledger(names=[toy])
    assert (found.scale, found.verdict, found.predicted) == ("smoke", "holds", 0.0)
    write_recorded(engine.run(toy, "laptop", workers=1))
    assert [one.scale for one in claims.ledger(names=[toy])] == ["laptop"]


def test_the_ledger_runs_only_when_told(store: Path, toy: str) -> None:
    claims.ledger(names=[toy])
    assert not store.exists()
    (found,) = claims.ledger(run=True, names=[toy], workers=1)
    assert (found.scale, found.verdict) == ("laptop", "holds")


def test_a_claim_over_several_experiments_gets_their_outcomes(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.py"
    other.write_text(Path(toy).read_text().replace('"T1"', '"T2"'))
    seen = []

    def check(*outcomes: object) -> Finding:
        seen.extend(one.name for one in outcomes)  # type: ignore[attr-defined]
        return Finding(1.0, (1.0, 1.0), None, "holds")

    joint = Claim("T3", "ours", "Both.", "Both.", check, experiments=(str(other), "toy_experiment"))
    monkeypatch.setattr(contract.experiment(toy).module, "CLAIMS", (joint,))
    outcome = engine.run(toy, "smoke")
    (waiting,) = outcome.claims
    assert (waiting.verdict, seen) == ("not_measured", [])
    engine.run(str(other), "smoke")
    (found,) = claims.ledger(names=[toy])
    assert (found.verdict, seen) == ("holds", ["other", "toy_experiment"])


def test_one_id_in_two_experiments_is_refused(toy: str, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(Path(toy).read_text())
    with pytest.raises(ValueError, match="claim id T1 is used by two experiments"):
        claims.ledger(names=[toy, str(other)])


def test_a_check_must_return_a_finding(toy: str) -> None:
    outcome = engine.run(toy, "smoke")
    wrong = dataclasses.replace(outcome.plan.experiment.claims[0], check=lambda _: True)
    with pytest.raises(ValueError, match="check of claim T1 returned a bool"):
        claims.evaluate(wrong, outcome)


def test_settings_of_ones_own_may_leave_a_claim_unmeasured(toy: str) -> None:
    (found,) = engine.run(toy, "smoke", centre=1.0).claims
    assert (found.verdict, found.note) == ("not_measured", "needs the axes and seeds of the scale itself")


def test_json_has_null_where_a_number_is_missing() -> None:
    (row,) = json.loads(json.dumps(claims.as_objects([RESULT]), allow_nan=False))
    assert tuple(row) == claims.COLUMNS
    assert (row["measured"], row["interval"], row["predicted"]) == (1.23456, [1.0, None], None)


def test_the_verdicts_file_is_sorted_and_quiet() -> None:
    assert claims.read_verdicts() == []
    results = [dataclasses.replace(RESULT, id=name) for name in ("A10", "C0.3", "A2")]
    path = claims.write_verdicts(results)
    rows = claims.read_verdicts()
    assert [row["id"] for row in rows] == ["A2", "A10", "C0.3"]
    assert rows[0]["measured"] == 1.235
    before = path.read_text()
    claims.write_verdicts([dataclasses.replace(one, measured=1.2346) for one in results])
    assert path.read_text() == before
    path.write_text("[{]")
    with pytest.raises(ValueError, match="not valid JSON"):
        claims.read_verdicts()
    path.write_text("[1]")
    with pytest.raises(ValueError, match="must be a list of objects"):
        claims.read_verdicts()


def test_the_table_says_value_interval_and_verdict() -> None:
    text = claims.table(
        [RESULT, dataclasses.replace(RESULT, interval=(1.0, 2.0), verdict="fails", predicted=0.5)]
    )
    assert "measured 1.235;" in text
    assert "measured 1.235 [1, 2]; predicted 0.5; toy at smoke scale" in text
    assert text.endswith("2 claims: 1 holds, 1 fails")
    assert claims.table([]) == "no claims"


def test_a_check_without_a_number_judges_nothing(toy: str) -> None:
    outcome = engine.run(toy, "smoke")
    blind = Claim(
        "T9", "ours", "It is so.", "Much.", lambda _: Finding(math.nan, (math.nan, math.nan), None, "fails")
    )
    found = claims.evaluate(blind, outcome)
    assert (found.verdict, found.note) == ("not_measured", "there is no number to judge by")
