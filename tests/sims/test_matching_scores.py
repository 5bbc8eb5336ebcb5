"""Scores of kernels: what a run draws, by hand; limits of the scale; and checks that can fail."""

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import sims
from sims import agreement
from sims.experiments import matching_scores as scores
from sims.experiments.matching_scores import Config, predict, simulate
from sims.streams import torch_generator


def measured(config: Config, n_seeds: int) -> xr.Dataset:
    return xr.concat(simulate([(config, seed) for seed in range(n_seeds)], "cpu"), "seed")


def normal(purpose: str, rows: int, width: int) -> np.ndarray:
    generator = torch_generator(scores.NAME, purpose, 0)
    return torch.randn(1, rows, width, generator=generator, dtype=torch.float64)[0].numpy()


@pytest.mark.parametrize("rows", ["unit", "gaussian"])
def test_scores_are_those_of_the_drawn_kernel(rows: Any) -> None:
    """By loops, and the projector from normal equations instead of an orthonormal basis."""
    config = Config(width=12, n_tokens=7, rank=5, noise=0.3, rows=rows)
    found = simulate([(config, 0)], "cpu")[0]
    x = normal("rows", 7, 12) / math.sqrt(12)
    if rows == "unit":
        x = np.array([row / math.sqrt(row @ row) for row in x])
    span = normal("projector", 12, 12)[:5].T
    kernel = span @ np.linalg.inv(span.T @ span) @ span.T
    assert float(found["projector_alignment"]) == pytest.approx(math.sqrt(5 / 12), abs=1e-12)
    kernel = kernel + 0.3 * normal("noise", 12, 12)
    for scale in found["scale"].values[[0, 4, 9]]:
        weights = [
            math.exp(scale * row @ kernel @ row) / sum(math.exp(scale * row @ kernel @ key) for key in x)
            for row in x
        ]
        assert float(found["score"].sel(scale=scale)) == pytest.approx(np.mean(weights), abs=1e-10)
    off = kernel[~np.eye(12, dtype=bool)]
    ratio = np.mean(np.diag(kernel)) / math.sqrt(np.mean(off**2))
    assert float(found["diagonal_ratio"]) == pytest.approx(ratio, abs=1e-10)
    alignment = np.trace(kernel) / math.sqrt(12 * np.sum(kernel**2))
    assert float(found["alignment"]) == pytest.approx(alignment, abs=1e-10)


def test_the_scale_decides() -> None:
    """One kernel: chance at a small scale, and almost surely right at a large one."""
    found = measured(Config(noise=0.05), 3)["score"].mean("seed")
    assert float(found[0]) == pytest.approx(1 / 102, rel=0.15)  # e^0.1 is 1.105
    assert float(found[-1]) > 0.99
    assert np.all(np.diff(found) > 0)


@pytest.mark.parametrize("seed", range(3))
def test_random_kernels_agree_with_theory(seed: int) -> None:
    config = scores.example(np.random.default_rng(seed))
    found = agreement.compare(
        measured(config, 10), predict(config), bias=scores.COMPARED, variables=list(scores.COMPARED)
    )
    assert found.holds(1e-7), f"{config}: {found}"


def test_claims_can_fail() -> None:
    outcome = sims.run("matching_scores", scale="smoke", seeds=3)
    assert [one.verdict for one in outcome.claims] == ["holds", "holds"]
    least = {"noise": 0.02, "rank": 128}
    wrong = {
        "W3.1": [
            ("score", {"noise": 0.2, "rank": 32, "scale": scores.SCALE_VALUES[5]}, 0.06),
            ("score", {**least, "scale": scores.SCALE_VALUES[0]}, 0.02),
            ("score", {**least, "scale": scores.SCALE_VALUES[-1]}, -0.06),
        ],
        "W3.2": [
            ("projector_alignment", {"rank": 32}, -0.02),
            ("gram_alignment", {"rank": 32, "seed": 1}, 0.2),
        ],
    }
    for claim in outcome.plan.experiment.claims:
        for name, place, shift in wrong[claim.id]:
            changed = outcome.measured.copy(deep=True)
            changed[name].loc[place] = changed[name].sel(place) + shift
            assert claim.check(dataclasses.replace(outcome, measured=changed)).verdict == "fails", (
                name,
                place,
            )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"width": 1}, "width is 1; it must be at least 2"),
        ({"n_tokens": 1}, "n_tokens is 1; it must be at least 2"),
        ({"rank": 0}, "rank is 0; it must be from 1 to width = 128"),
        ({"rank": 129}, "rank is 129; it must be from 1 to width = 128"),
        ({"noise": 0.0}, "noise is 0.0; it must be finite and above 0"),
        ({"rows": "other"}, "rows is 'other'"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sims.run("matching_scores", scale="smoke", **fields)
