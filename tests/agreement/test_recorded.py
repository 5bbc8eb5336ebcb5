"""Committed records: of today's presets, reproduced by today's code, small; and the ledger that rests on them."""

from functools import cache
from pathlib import Path

import pytest

import sims
from sims import claims, contract, recorded

RECORDS = sorted(recorded.RECORDED_FOLDER.glob("*.nc"))


@cache
def replayed(name: str) -> dict[str, dict[str, float | None]]:
    """One smoke run, shared by the records of an experiment."""
    return recorded.replay(name)


def name_and_scale(path: Path) -> tuple[str, str]:
    name, _, scale = path.stem.rpartition("-")
    return name, scale


@pytest.fixture(params=RECORDS, ids=lambda path: path.stem)
def record(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_experiment_has_a_record() -> None:
    """The book reads them; one that is lost must not go unnoticed as a test that is not collected."""
    assert {name_and_scale(path)[0] for path in RECORDS} == set(sims.experiment_names())


def test_a_record_answers_the_preset_of_its_scale(record: Path) -> None:
    name, scale = name_and_scale(record)
    assert name in sims.experiment_names()
    loaded = recorded.load_recorded(name, scale)
    assert loaded is not None
    dataset, details = loaded
    assert contract.plan(name, scale).matches(details["preset"]), f"run {name} --scale {scale} --record again"
    assert dataset.sizes["seed"] == len(details["preset"]["seeds"])
    assert details["device"]
    assert details["wall_seconds"] > 0


def test_todays_code_reproduces_a_record(record: Path) -> None:
    name, scale = name_and_scale(record)
    assert recorded.replay_agrees(name, scale, replayed(name)), f"run {name} --scale {scale} --record again"


def test_a_replay_can_disagree(record: Path) -> None:
    name, scale = name_and_scale(record)
    numbers = {key: dict(one) for key, one in replayed(name).items()}
    key = next(key for key, one in numbers.items() if one["tolerance"])
    mean, tolerance = numbers[key]["mean"], numbers[key]["tolerance"]
    assert mean is not None
    assert tolerance is not None
    numbers[key]["mean"] = mean + 3 * tolerance
    assert not recorded.replay_agrees(name, scale, numbers)


def test_a_record_is_small(record: Path) -> None:
    assert record.stat().st_size <= recorded.MAXIMUM_BYTES


def test_claim_ids_are_unique_and_eight_are_about_the_memory() -> None:
    identifiers = [claim.id for name in sims.experiment_names() for claim in contract.experiment(name).claims]
    assert len(identifiers) == len(set(identifiers))
    assert sum(one.startswith("A") and one[1:].isdecimal() for one in identifiers) >= 8


def test_the_ledger_is_the_committed_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A flipped verdict, or a number that moved in its fourth digit, is a difference to look at and to commit."""
    monkeypatch.setenv("RECALL_AND_REASON_RESULTS", str(tmp_path))  # records alone, no stored runs
    now = {row["id"]: row for row in claims.verdict_objects(claims.ledger())}
    then = {row["id"]: row for row in claims.read_verdicts()}
    assert list(now) == list(then), "python -m sims claims --write"
    changed = {key: (then[key], now[key]) for key in now if then[key] != now[key]}
    assert not changed, "then and now; if it is right: python -m sims claims --write"
    assert sum(row["verdict"] != "not_measured" for key, row in now.items() if key.startswith("A")) >= 8
