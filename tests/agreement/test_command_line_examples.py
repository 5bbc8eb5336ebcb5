"""The commands that the README shows, on the real experiments."""

import json
from collections.abc import Callable

import pytest

import sims
from sims.__main__ import main
from sims.outcome import Outcome


def test_check_draws_problems_and_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "memory_flow", "--examples", "3", "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert "memory_flow: 3 random problems (seed 0)" in out
    assert "agrees" in out
    assert "to repeat it: python -m sims run memory_flow" in out


def test_run_without_a_prediction_says_so(
    smoke: Callable[[str], Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    smoke("memory_adam")
    assert main(["run", "memory_adam", "--scale", "smoke", "--live"]) == 0
    out = capsys.readouterr().out
    assert "0 runs made" in out
    assert "agreement: no prediction to compare" in out


def test_check_without_random_problems_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "memory_adam", "--examples", "1"]) == 2
    assert "memory_adam has no example(rng)" in capsys.readouterr().err


def test_list_names_every_experiment_with_its_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in sims.experiment_names():
        question = sims.experiment(name).question
        assert f"{name}: {question}" in out
        assert question.endswith("?")


def test_claims_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["experiment"] for row in rows} == set(sims.experiment_names())
    assert [row["id"] for row in rows][:2] == ["A1", "A2"]
