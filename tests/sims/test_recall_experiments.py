"""Settings of the recall experiments: each that makes no sense is refused in a sentence that names it."""

import re
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import sims
from sims import contract
from sims.experiments import recall_signal_size, recall_training
from sims.experiments._readings import interpolated_crossing
from sims.models.one_layer_recall import build
from sims.tasks.noisy_recall import Sampler, last_token_loss
from theory import noisy_recall as theory

BAD = [
    ("recall_training", {"n_tokens": 2}, "n_tokens is 2; it must be at least 3"),
    ("recall_training", {"context_length": 2}, "context_length is 2; it must be at least 3"),
    ("recall_training", {"noise_level": 1.0}, "noise_level is 1.0; it must be in [0, 1)"),
    ("recall_training", {"value_features": "next"}, "value_features is 'next'; it must be one of"),
    ("recall_training", {"value_rate": -1.0}, "value is -1.0; it must be finite and at least 0"),
    (
        "recall_training",
        {"feed_forward_rate": 0.0, "value_rate": 0.0, "key_query_rate": 0.0},
        "learning rates of feed_forward, value, key_query are 0",
    ),
    ("recall_training", {"batch_size": 0}, "batch_size is 0; it must be at least 1"),
    ("recall_training", {"n_probes": 1}, "n_probes is 1; it must be at least 2"),
    ("recall_without_feed_forward", {"final_step": 0}, "final_step is 0; it must be at least 1"),
    ("recall_first_step", {"n_sequences": 2500}, "n_sequences is 2500; it must be a multiple of 2000"),
    ("recall_first_step", {"n_tokens": 3}, "n_tokens is 3; it must be at least 4"),
    ("recall_first_step", {"features": "previous"}, "features is 'previous'"),
    ("recall_gradient_noise", {"batch_scale": 0.0}, "batch_scale is 0.0; it must be finite and above 0"),
    ("recall_gradient_noise", {"n_batches": 1}, "n_batches is 1; it must be at least 2"),
    ("recall_gradient_noise", {"context_scale": 0.05}, "context_length is 2; it must be at least 3"),
    (
        "recall_signal_size",
        {"feed_forward_rate": 0.0},
        "feed_forward_rate is 0.0; it must be finite and above 0",
    ),
    ("recall_data", {"chain": "english"}, "chain is 'english'"),
    ("recall_data", {"n_sequences": 0}, "n_sequences is 0; it must be at least 1"),
    (
        "recall_data",
        {"version": "experiment", "n_tokens": 2},
        "noise_token is 2; it must be one of the 2 tokens",
    ),
]


@pytest.mark.parametrize(
    ("name", "fields", "sentence"), BAD, ids=[f"{one[0]}-{'-'.join(one[1])}" for one in BAD]
)
def test_bad_settings_are_refused_by_name(name: str, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sims.run(name, scale="smoke", **fields)


@pytest.mark.parametrize("name", [one for one in sims.experiment_names() if one.startswith("recall_")])
def test_examples_are_valid_and_differ(name: str) -> None:
    module = contract.experiment(name).module
    if not hasattr(module, "example"):
        pytest.fail(f"{name} has no example, so that `python -m sims check` cannot try it")
    rng = np.random.default_rng(0)
    assert len({module.example(rng) for _ in range(5)}) > 1


def test_crossing_interpolates_between_readings() -> None:
    values = xr.DataArray([[0.0, 0.5, 1.0], [0.0, 0.1, 0.2], [0.9, 1.0, 1.0]], dims=["seed", "step"])
    values = values.assign_coords(step=[1, 10, 100])
    found = interpolated_crossing(values, 0.75).values
    assert found[0] == pytest.approx(10**1.5)  # half way from 10 to 100, in ln step
    assert np.isnan(found[1])
    assert found[2] == 1.0


def test_value_margin_is_that_of_a_stationary_context() -> None:
    """Against the matrix itself: its noise row minus a generic row, on the stationary share of every token."""
    problem = theory.context_table(
        recall_training.Config(n_tokens=5).problem, 10, np.random.default_rng(0)
    ).problem
    value = np.random.default_rng(1).standard_normal(10)
    n = 4
    matrix = np.empty((6, 6))
    matrix[0] = [value[0], value[1], *[value[2]] * n]
    matrix[1] = [value[3], value[4], *[value[5]] * n]
    matrix[2:, 0], matrix[2:, 1], matrix[2:, 2:] = value[6], value[7], value[9]
    matrix[range(2, 6), range(2, 6)] = value[8]
    context = np.array([problem.noise_level, *[1.0] * 5]) / 6
    logits = matrix @ context
    assert recall_signal_size.value_margin(value, problem) == pytest.approx(logits[0] - logits[2], rel=1e-13)


def test_rows_of_the_value_matrix_sum_to_the_feed_forward_column() -> None:
    """An identity of every minibatch, whatever attention does: attended positions sum to one and each has one current token."""
    problem = recall_training.Config(n_tokens=6).problem
    model = build(problem, 1, dtype=torch.float64)
    optimiser = torch.optim.SGD(model.parameter_groups(feed_forward=0.5, value=1.5, key_query=1.0), lr=1.0)
    sampler, draw = Sampler(problem), torch.Generator().manual_seed(0)
    for _ in range(60):
        batch = sampler.draw(16, draw)
        optimiser.zero_grad()
        last_token_loss(model.logits(batch.contexts[None]), batch.labels[None, :, -1]).backward()
        optimiser.step()
    sums = model.value.detach()[0, :, :7].sum(1)
    column = model.feed_forward.detach()[0, :, problem.trigger]
    assert float(column.abs().max()) > 0.5
    # Sixty steps of float64, each a sum of some hundred terms below one.
    torch.testing.assert_close(sums, 3 * column, rtol=0, atol=1e-12)
