"""The constructed decoder against its formulas by hand, where it must and must not work, and the experiment's checks."""

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
from sims.experiments import matching_construction as construction
from sims.experiments.matching_construction import Config, half_widths, predict, simulate
from sims.models.constructed_matching import constructed_matching, other_edges, sources
from sims.probes.matching import matching_kernel
from theory import matching as theory


def built(layers: int, width: int, length: int, positions: bool = True, kind: Any = "orthogonal") -> Any:
    return constructed_matching(layers, width, 9, length, 30.0, positions, kind, "test", [0, 1])


def measured(config: Config, n_seeds: int) -> xr.Dataset:
    return xr.concat(simulate([(config, seed) for seed in range(n_seeds)], "cpu"), "seed")


def test_right_tokens_read_their_left_ones_and_all_others_the_first_position() -> None:
    assert sources(8).tolist() == [0, 0, 1, 0, 3, 0, 5, 0]
    assert (~other_edges(8)).sum(1).tolist() == [1] * 8


@pytest.mark.parametrize("positions", [True, False])
def test_logits_are_those_of_the_formulas(positions: bool) -> None:
    """Loops over positions in float64, from the embeddings, position vectors and value-output matrices alone."""
    layers, length = 3, 8
    model = built(layers, 24, length, positions)
    tokens = torch.tensor([[[0, 1, 2, 5, 4, 2, 3, 1]]]).expand(2, -1, -1)
    forbidden = None if positions else {0: other_edges(length).expand(2, 1, -1, -1)}
    logits = model.trace(tokens, forbidden=forbidden).logits
    for seed in range(2):
        rows, places = (model.weights[name][seed].double().numpy() for name in ("embedding", "positions"))
        values = [model.value_output(layer)[seed].double().numpy() for layer in range(layers)]
        x = rows[tokens[seed, 0].numpy()] + places
        for layer in range(layers):
            moved = x.copy()
            for query in range(length):
                if layer == 0:
                    score = [
                        sum(
                            x[query] @ places[i] * (places[sources(length)[i]] @ x[key])
                            for i in range(1, length)
                        )
                        for key in range(query + 1)
                    ]
                else:
                    asked = x[query] if layer == 1 else values[layer - 1].T @ x[query]
                    score = [asked @ values[0].T @ x[key] for key in range(query + 1)]
                weight = np.exp(30 * (np.array(score) - max(score)))
                if layer == 0 and not positions:
                    weight = np.eye(length)[sources(length)[query]][: query + 1]
                moved[query] += values[layer] @ (weight @ x[: query + 1]) / weight.sum()
            x = moved
        expected = x @ values[-1] @ rows.T
        # float32: scores up to some 60 in softmax, at 1e-7 each.
        np.testing.assert_allclose(logits[seed, 0].numpy(), expected, atol=2e-4)


def test_needed_kernels_are_the_strength_times_the_identity() -> None:
    model, gaussian = built(4, 32, 10), built(4, 32, 10, kind="gaussian")
    for layer in (1, 2, 3):
        wanted = 30 * math.sqrt(32) * torch.eye(32).expand(2, -1, -1)
        torch.testing.assert_close(matching_kernel(model, layer), wanted, atol=2e-3, rtol=0)
        assert (matching_kernel(gaussian, layer) - wanted).abs().max() > 10


def test_a_wide_model_answers_and_without_its_first_layer_it_does_not() -> None:
    wide = Config(n_layers=2, width=512, n_sentences=60)
    found = measured(wide, 3).mean("seed")
    assert float(found["accuracy"]) > 0.97
    assert float(found["first_layer"]) > 0.99
    assert float(found["whole_path"]) == float(found["last_match"])
    assert float(measured(dataclasses.replace(wide, strength=1e-6), 3)["accuracy"].mean()) < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_random_constructions_agree_with_theory(seed: int) -> None:
    config = construction.example(np.random.default_rng(seed))
    found = agreement.compare(
        measured(config, 16), predict(config), bias=construction.COMPARED, variables=["accuracy"]
    )
    assert found.holds(1e-7), f"{config}: {found}"


def test_half_widths_are_interpolated_in_the_logarithm() -> None:
    accuracy = xr.DataArray(
        [[0.9, 0.3, 0.1], [0.4, 0.2, 0.0], [1.0, 0.9, 0.6]], {"n_layers": [2, 3, 4], "width": [64, 32, 16]},
        ["n_layers", "width"],
    )  # fmt: skip
    found = half_widths(accuracy)
    assert float(found[0]) == pytest.approx(32 * 2 ** (1 / 3))
    assert np.isnan(found[1:]).all()


def test_claims_can_fail_and_know_their_regime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(construction, "_sampled", theory.expected_accuracy)  # quicker, and near enough here
    outcome = sims.run(
        "matching_construction",
        scale="smoke",
        n_layers=(2, 3),
        width=(48, 256),
        positions=True,
        seeds=3,
        n_sentences=10,
    )
    line = outcome.predicted["accuracy"]
    law, growth = outcome.plan.experiment.claims

    def checked(claim: Any, accuracy: xr.DataArray) -> str:
        values = accuracy.expand_dims(seed=3)
        return claim.check(dataclasses.replace(outcome, measured=xr.Dataset({"accuracy": values}))).verdict

    assert checked(law, line) == "holds"
    assert checked(law, line - 0.2 * (line["width"] == 48)) == "regime"
    assert checked(law, line - 0.2 * (line["width"] == 256)) == "fails"
    halves = {2: 60.0, 3: 60 * 3.3}

    def curve(three: float) -> xr.DataArray:
        place = xr.DataArray([halves[2], three], {"n_layers": [2, 3]}, ["n_layers"])
        return xr.DataArray(0.5 + 0.1 * np.log(line["width"] / place))

    assert checked(growth, curve(halves[3])) == "holds"
    assert checked(growth, curve(60 * 2.2)) == "fails"
    assert checked(growth, curve(60 * 4.26)) == "fails"  # 255.6, just inside the widths
    assert checked(growth, curve(1000.0)) == "not_measured"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"n_layers": 1}, "n_layers is 1; it must be at least 2"),
        ({"width": 1}, "width is 1; it must be at least 2"),
        ({"n_sentences": 0}, "n_sentences is 0; it must be at least 1"),
        ({"strength": 0.0}, "strength is 0.0; it must be finite and above 0"),
        ({"n_pairs": 2, "n_layers": 3}, "n_pairs is 2; it must be at least 3 (n_steps + tail)"),
        ({"n_tokens": 6}, "vocabulary_size is 6; it must be at least 7"),
        ({"kind": "other"}, "kind is 'other'"),
    ],
)
def test_bad_settings_are_refused_by_name(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sims.run("matching_construction", scale="smoke", **fields)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kind is 'other'; it must be one of orthogonal, gaussian\."):
        built(2, 8, 4, kind="other")
