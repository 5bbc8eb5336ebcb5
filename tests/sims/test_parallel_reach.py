"""The experiment on the reach: predictions where the chain's end cuts it off, a law that is off, settings that make no sense."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import xarray as xr

import sims
from sims import agreement, contract, records
from sims.experiments import parallel_reach
from sims.experiments.parallel_reach import Config, predict, simulate
from theory import parallel_reasoning as theory

SMALL = Config(n_sentences=300)


def measured(config: Config, n_seeds: int = 6) -> xr.Dataset:
    runs = simulate([(config, seed) for seed in range(n_seeds)], "cpu")
    return xr.concat(runs, "seed")


@pytest.mark.parametrize("seed", range(12))
def test_random_sentences_agree_with_theory(seed: int) -> None:
    """Short paths and starts anywhere included: then the law is a mixture over the start."""
    config = parallel_reach.example(np.random.default_rng(seed))
    found = agreement.compare(
        measured(dataclasses.replace(config, n_sentences=400)),
        predict(config),
        variables=["probability", "mean_reach"],
    )
    assert found.holds(1e-7), f"{config}: {found}"


def test_a_law_that_is_a_little_off_is_noticed() -> None:
    """Four steps in 0.39 instead of a third of the orders."""
    config = Config(n_layers=3, n_sentences=1000)
    right = predict(config)
    wrong = right.copy(deep=True)
    wrong["probability"].values[[3, 4]] += np.array([-0.06, 0.06])
    samples = measured(config, 24)  # seven degrees of freedom forgive twenty standard errors
    assert agreement.compare(samples, right).holds(1e-7)
    assert not agreement.compare(samples, wrong).holds(1e-7)


def test_five_layers_have_bounds_and_samples_and_no_law() -> None:
    config = Config(n_layers=5, n_pairs=46, n_steps=40, distractor=0, vocabulary_size=47, n_sentences=20)
    line = predict(config)
    assert (line["lower"], line["upper"]) == (15, 40)
    inside = (line["reach"] >= 15) & (line["reach"] <= 40)
    assert np.isnan(line["probability"]).equals(inside)
    assert float(line["sampled"].sum()) == pytest.approx(1, abs=1e-12)
    assert np.isnan(line["mean_reach"])
    assert float(line["third_pair"]) == 1 / 3
    without = predict(dataclasses.replace(config, causal=False))
    assert float(without["mean_reach"]) == 40
    assert np.isnan(without["sampled"]).all()
    assert simulate([(dataclasses.replace(config, causal=False), 0)], "cpu")[0]["shortest"] == 40


def test_a_path_of_four_pairs_cuts_four_layers_off() -> None:
    line = predict(Config(n_layers=4, n_pairs=6, n_steps=3, tail=1))
    law = [float(line["probability"].sel(reach=steps)) for steps in range(7)]
    assert law == pytest.approx([0, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3])
    assert (line["lower"], line["upper"]) == (4, 6)
    assert np.isnan(predict(Config(n_layers=4, n_pairs=3, n_steps=2, tail=1))["third_pair"])


def test_a_path_below_the_lower_bound_is_known_to_its_end() -> None:
    line = predict(Config(n_layers=6, n_pairs=16, n_steps=14))
    assert float(line["probability"].sel(reach=16)) == float(line["third_pair"] * 3) == 1


def test_the_law_of_the_experiment_is_that_of_theory() -> None:
    line = predict(SMALL)
    exact = theory.reach_distribution(4)
    assert {int(one): float(p) for one, p in line["probability"].to_series().items() if p} == pytest.approx(
        {steps: float(p) for steps, p in exact.items()}
    )


def test_readings_and_masks_survive_a_record(tmp_path: Any) -> None:
    outcome = sims.run("parallel_reach", scale="smoke", n_layers=(2, 3), seeds=1, n_sentences=5)
    records.write_dataset(tmp_path / "one.nc", outcome.measured, {})
    back, _ = records.read_dataset(tmp_path / "one.nc")
    assert float(back["mean_reach"].sel(causal=False, reading="all", n_layers=3).mean()) == 4
    assert back["causal"].values.tolist() == [True, False]


def test_claims_can_fail() -> None:
    """Each check with one sentence, or one share of sentences, on the wrong side."""
    outcome = sims.run("parallel_reach", scale="smoke", n_layers=(3, 4), seeds=2, n_sentences=400)
    assert [one.verdict for one in outcome.claims] == ["holds"] * 4
    wrong = {
        "W6": {"n_layers": 3, "causal": True, "reading": "all", "reach": 5},
        "W6.1": {"n_layers": 4, "causal": True, "reading": "all", "reach": 9},
        "W6.2": {"n_layers": 3, "causal": False, "reading": "all", "reach": 3},
        "W6.3": {"n_layers": 4, "causal": True, "reading": "greedy", "reach": 8},
    }
    for claim in outcome.plan.experiment.claims:
        changed = outcome.measured.copy(deep=True)
        place = changed["probability"].sel(wrong[claim.id])
        changed["probability"].loc[wrong[claim.id]] = place + 0.1
        if claim.id == "W6.2":
            changed["probability"].loc[{**wrong[claim.id], "reach": 4}] = 0.9
        broken = dataclasses.replace(outcome, measured=changed)
        assert claim.check(broken).verdict == "fails", claim.id


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"n_layers": 0}, "n_layers is 0; it must be at least 1"),
        ({"n_layers": 13}, "n_layers is 13; it must be at most 12"),
        ({"n_sentences": 0}, "n_sentences is 0; it must be at least 1"),
        ({"reading": "some"}, "reading is 'some'"),
        ({"tail": 4}, "n_pairs is 16; it must be at least 17 (n_steps + tail)"),
        ({"vocabulary_size": 20}, "vocabulary_size is 20; it must be at least 21"),
        ({"distractor": -1}, "n_distractors is -1; it must be at least 0"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sims.run("parallel_reach", scale="smoke", **fields)


def test_scales_leave_room_for_the_deepest_reach() -> None:
    """Otherwise the chain's end would hide the difference between the bounds."""
    for scale in contract.experiment("parallel_reach").scales.values():
        assert min(scale.base.path_lengths) >= theory.bounds(max(scale.grid["n_layers"])).upper
