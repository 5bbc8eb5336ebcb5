"""Kernels of noise: the matrices by hand, the whole decoder against a count of norms, and checks that can fail."""

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
from sims.experiments import noise_kernels as noise
from sims.experiments.noise_kernels import Config, kernel_score, predict, simulate
from sims.streams import torch_generator


def measured(config: Config, n_seeds: int) -> xr.Dataset:
    return xr.concat(simulate([(config, seed) for seed in range(n_seeds)], "cpu"), "seed")


def drawn(layer: int, kind: str, width: int) -> np.ndarray:
    """The noise matrix of a layer for seed 0, from its stream."""
    generator = torch_generator(noise.NAME, f"noise.{layer}", 0)
    normal = torch.randn(width, width, generator=generator, dtype=torch.float64).numpy()
    if kind == "gaussian":
        return normal / math.sqrt(width)
    orthogonal, upper = np.linalg.qr(normal)
    return orthogonal * np.sign(np.diag(upper))


@pytest.mark.parametrize("form", ["corrected", "remembered", "identity"])
@pytest.mark.parametrize("kind", ["orthogonal", "gaussian"])
def test_every_kernel_is_the_product_of_the_drawn_matrices(form: Any, kind: Any) -> None:
    """Written out for three layers: four pairs of layer 1, nine of layer 2."""
    config = Config(form, kind, n_layers=3, width=16)
    first, second = (np.eye(16) if form == "identity" else drawn(layer, kind, 16) for layer in (0, 1))
    products = {1: first.T, 2: second @ first.T if form == "corrected" else second.T}
    buffers = {None: np.eye(16), 0: first, 1: second}
    found = simulate([(config, 0)], "cpu")[0]
    assert found.sizes["pair"] == 13
    for layer, query, key in config.pairs:
        kernel = buffers[query].T @ products[layer] @ buffers[key]
        here = found.sel(pair=noise.pair_label(layer, query, key))
        expected = np.trace(kernel) / (4 * np.linalg.norm(kernel))
        assert float(here["alignment"]) == pytest.approx(expected, abs=1e-10)
        score = 16 * np.trace(kernel) / np.abs(kernel).sum()
        assert float(here["kernel_score"]) == pytest.approx(score, abs=1e-8)


def test_kernel_score_of_the_identity_is_the_width() -> None:
    assert kernel_score(torch.eye(5)[None]).tolist() == [5.0]


@pytest.mark.parametrize("exponent", [0.5, 0.7])
def test_fresh_weights_add_their_norms(exponent: float) -> None:
    """Products of two fresh matrices have s² = d^(2 − 4γ) of the noise's squared norm, and no correlation with it.

    Layer 1: (Z + V) of the key's buffer and (Zᵀ + R) give 1/(1 + s²). The later ones have two buffers, 1/(1 + s²)^(3/2).
    """
    config = Config(n_layers=3, width=96, init_exponent=exponent)
    whole = measured(config, 10)["whole_alignment"]
    square = 96 ** (2 - 4 * exponent)
    for pair, power in (("layer 1: raw - 0", 1.0), ("layer 2: 1 - 0", 1.5)):
        values = whole.sel(pair=pair)
        error = float(values.std("seed", ddof=1)) / math.sqrt(10)
        # Norms fluctuate, and their ratio's mean is off, by order 1/d.
        assert abs(float(values.mean()) - (1 + square) ** -power) < 0.5 / 96 + 6 * error


@pytest.mark.parametrize("seed", range(4))
def test_random_noise_agrees_with_theory(seed: int) -> None:
    config = noise.example(np.random.default_rng(seed))
    found = agreement.compare(
        measured(config, 10), predict(config), bias=noise.COMPARED, variables=["alignment"]
    )
    assert found.holds(1e-7), f"{config}: {found}"


def test_kernel_scores_are_near_theory() -> None:
    """Theory takes entries to be Gaussian, in error by about 1/d of the noise's own score; Gaussian pairs that match."""
    config = Config(kind="gaussian", n_layers=3, width=96)
    mean, line = measured(config, 10)["kernel_score"].mean("seed"), predict(config)["kernel_score"]
    for pair in ("layer 1: raw - 0", "layer 2: 1 - 0"):
        assert float(mean.sel(pair=pair)) == pytest.approx(float(line.sel(pair=pair)), rel=0.03)


def test_claims_can_fail() -> None:
    outcome = sims.run("noise_kernels", scale="smoke", seeds=3, init_exponent=1.0)
    assert [one.verdict for one in outcome.claims] == ["holds", "holds"]
    wrong = {
        "W4.4": [("corrected", "layer 2: 1 - 0"), ("corrected", "layer 2: 0 - 0")],
        "W4.5": [
            ("remembered", "layer 1: raw - 0"),
            ("remembered", "layer 2: 1 - 0"),
            ("identity", "layer 1: 0 - 0"),
        ],
    }
    for claim in outcome.plan.experiment.claims:
        for form, pair in wrong[claim.id]:
            changed = outcome.measured.copy(deep=True)
            place = {"form": form, "kind": "orthogonal", "pair": pair}
            changed["alignment"].loc[place] = changed["alignment"].sel(place) - 0.2
            verdict = claim.check(dataclasses.replace(outcome, measured=changed)).verdict
            assert verdict == "fails", (claim.id, form, pair)
    alone = sims.run("noise_kernels", scale="smoke", seeds=2, init_exponent=1.0, form="remembered")
    assert [one.verdict for one in alone.claims] == ["not_measured", "not_measured"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"n_layers": 1}, "n_layers is 1; it must be at least 2"),
        ({"width": 4}, "width is 4; it must be at least 8"),
        ({"start": 0.0}, "start is 0.0; it must be finite and above 0"),
        ({"init_exponent": float("inf")}, "init_exponent is inf"),
        ({"form": "other"}, "form is 'other'"),
        ({"kind": "other"}, "kind is 'other'"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sims.run("noise_kernels", scale="smoke", **fields)
