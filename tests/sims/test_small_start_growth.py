"""The matching layer, its contexts, its readings and its experiment; and what Adam's first steps do to a small start."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from sims import agreement, contract
from sims.experiments import small_start_growth as growth
from sims.models.matching_layer import build
from sims.streams import torch_generator
from sims.tasks.matching_contexts import MatchingContexts, draw, matching_loss
from theory import small_initialisation as theory

SMALL = growth.Config(
    n_tokens=12, width=16, head_width=24, flow_step=0.05, final_time=3.0, n_probes=10, batch_size=256
)
Z = 6.0
"""False alarm 2e-9 for a normal z: far below 1e-6 for all comparisons here."""


def stream(purpose: str, seed: int = 0) -> torch.Generator:
    return torch_generator("test_small_start_growth", purpose, seed)


# --- the task


@pytest.mark.parametrize("n_slots", [2, 3, 6])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_contexts_are_distinct_and_as_frequent_as_stated(n_slots: int, exponent: float) -> None:
    task, count = MatchingContexts(6, n_slots, exponent), 20_000
    keys, queries = draw(task, count, stream("contexts"))
    assert keys.shape == (count, n_slots)
    assert torch.equal(keys[:, 0], queries)
    assert all(len(set(row)) == n_slots for row in keys[:500].tolist())
    asked = np.bincount(queries.numpy(), minlength=6) / count
    error = np.sqrt(task.frequencies * (1 - task.frequencies) / count)
    assert np.all(np.abs(asked - task.frequencies) < Z * error)
    there = np.array([(keys[queries == 0] == other).any(1).double().mean() for other in range(1, 6)])
    chance, seen = (n_slots - 1) / 5, int((queries == 0).sum())
    assert np.all(np.abs(there - chance) <= Z * math.sqrt(chance * (1 - chance) / seen))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 2, 0.0), r"n_tokens is 1; it must be at least 2\."),
        ((4, 5, 0.0), r"n_slots is 5; it must be at most n_tokens = 4"),
        ((4, 2, -1.0), r"frequency_exponent is -1\.0; it must be finite and at least 0\."),
        ((4, 2, math.nan), r"frequency_exponent is nan"),
    ],
)
def test_bad_tasks_are_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MatchingContexts(*values)


def test_the_loss_is_that_of_the_first_slot() -> None:
    scores = torch.tensor([[[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    assert float(matching_loss(scores)) == pytest.approx(float(-weights[..., 0].log().mean(-1).sum()))


# --- the model


def test_scores_are_queries_times_keys_of_the_buffer() -> None:
    model = build(5, 8, 3, 0.7, [stream("weights", seed) for seed in (0, 1)])
    assert torch.allclose(model.buffer[0].mT @ model.buffer[0], torch.eye(8), atol=1e-5)
    assert torch.allclose(model.embeddings[1].mT @ model.embeddings[1], torch.eye(5), atol=1e-5)
    scores = model.scores.detach()
    for seed, query, key in itertools.product(range(2), range(5), range(5)):
        left = model.query[seed] @ model.embeddings[seed, :, query]
        right = model.key[seed] @ model.buffer[seed] @ model.embeddings[seed, :, key]
        expected = float((left @ right).detach()) / math.sqrt(3)
        assert float(scores[seed, query, key]) == pytest.approx(expected, abs=1e-6)
    keys, queries = torch.tensor([[[3, 1], [0, 4]]] * 2), torch.tensor([[3, 0]] * 2)
    chosen = model.context_scores(keys, queries)
    assert torch.equal(chosen[1, 0], scores[1, 3, [3, 1]])
    assert torch.equal(chosen[0, 1], scores[0, 0, [0, 4]])


def test_the_start_has_its_size_and_scales_with_the_exponent() -> None:
    one, other = (build(4, 32, 40, gamma, [stream("weights")]) for gamma in (0.5, 1.0))
    assert torch.allclose(one.query * 32**-0.5, other.query)
    spread = float(one.query.detach().std()) / 32**-0.5
    assert abs(spread - 1) < Z / math.sqrt(2 * 32 * 40)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="width is 3; it must be at least n_tokens = 4"):
        build(4, 3, 2, 0.5, [stream("weights")])
    with pytest.raises(ValueError, match="head_width is 0"):
        build(4, 4, 0, 0.5, [stream("weights")])


def test_the_first_gradient_is_theorys_direction() -> None:
    """All contexts of four tokens and three slots, through W_q and W_k of a start so small that scores are 1e-5."""
    model = build(4, 6, 5, 4.0, [stream("weights")])
    contexts = [
        (query, *others)
        for query in range(4)
        for others in itertools.combinations([one for one in range(4) if one != query], 2)
    ]
    keys = torch.tensor([contexts])
    loss = matching_loss(model.context_scores(keys, keys[..., 0]))
    pull = -torch.autograd.grad(loss, [model.query])[0][0].double().numpy()
    layer = theory.MatchingLayer(4, 3, 6, 5, 4.0, 5**-0.5)
    embeddings, rotated = (
        one[0].detach().double().numpy() for one in (model.embeddings, model.key @ model.buffer)
    )
    expected = rotated @ embeddings @ layer.direction.T @ embeddings.T
    assert np.allclose(pull, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# --- readings


def test_readings_by_hand() -> None:
    config = dataclasses.replace(SMALL, n_tokens=3, width=4, frequency_exponent=1.0)
    scores = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 1.0, 1.0]])
    found = growth.readings(config, scores)
    frequencies = np.array([6, 3, 2]) / 11
    assert float(found["margin"]) == pytest.approx(frequencies @ [1.5, 3.0, 0.0])
    assert float(found["margin"]) == pytest.approx(
        float(theory.margins(config.layer, scores / config.layer.score_scale))
    )
    assert float(found["diagonal"]) == pytest.approx((1 + 2 + 0) / 3)
    assert float(found["off_diagonal"]) == pytest.approx(math.sqrt((1 + 0 + 1 + 1) / 6))
    assert float(found["alignment"]) == pytest.approx(3 / math.sqrt(2 * 8))
    seen = np.array([[1.0, -1, 0], [-1, 2, -1], [0, 0, 0]])
    assert float(found["top_share"]) == pytest.approx(np.linalg.norm(seen, 2) ** 2 / 8)
    clock = np.arcsinh(found["margin"] / config.layer.start_scale) / 2
    assert float(found["clock"]) == pytest.approx(float(clock))


def test_a_multiple_of_the_identity_is_perfectly_aligned() -> None:
    shifted = 2.5 * np.eye(12) + np.arange(12)[:, None]  # shifts of rows are nothing to a softmax
    found = growth.readings(SMALL, shifted)
    assert float(found["alignment"]) == pytest.approx(1)
    assert float(found["top_share"]) == pytest.approx(1 / 11)


# --- the experiment


def outcomes(config: growth.Config, seeds: range) -> xr.Dataset:
    each = [growth.simulate([(config, seed)], "cpu")[0] for seed in seeds]
    return xr.concat(each, xr.DataArray(list(seeds), dims="seed"))


@pytest.mark.parametrize(
    "changes", [{"momentum": 0.6}, {"n_slots": 12}, {"frequency_exponent": 0.7, "init_exponent": 0.8}]
)
def test_training_follows_theory_in_other_cells(changes: dict[str, Any]) -> None:
    """Also with momentum, contexts of all tokens, and milder frequencies; and a wrong exponent is seen."""
    config = dataclasses.replace(SMALL, **changes)
    measured, predicted = outcomes(config, range(200, 216)), growth.predict(config)
    bias = {name: one for name, one in growth.COMPARED.items() if name in predicted}
    found = agreement.compare(measured, predicted, bias=bias, variables=list(growth.COMPARED))
    assert found.holds(1e-6), str(found)
    wrong = growth.predict(dataclasses.replace(config, init_exponent=config.init_exponent + 0.15))
    assert not agreement.compare(measured, wrong, bias=bias, variables=list(growth.COMPARED)).holds(1e-6)


def test_stacked_seeds_learn_apart() -> None:
    config = dataclasses.replace(SMALL, final_time=0.5, n_probes=3)
    both = growth.simulate([(config, 3), (config, 4)], "cpu")
    alone = growth.simulate([(config, 4)], "cpu")[0]
    assert np.allclose(
        both[1]["margin"], alone["margin"], rtol=1e-4, atol=1e-7
    )  # batched products round apart
    assert not np.allclose(both[0]["margin"], alone["margin"], rtol=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_slots": 3}, r"n_slots is 3; it must be 2 or n_tokens = 12"),
        ({"init_exponent": math.inf}, r"init_exponent is inf; it must be finite\."),
        ({"width": 8}, r"width is 8; it must be at least 12"),
        ({"flow_step": 0.3}, r"flow_step is 0\.3; it must be at most 0\.2"),
        ({"batch_size": 0}, r"batch_size is 0; it must be at least 1\."),
        ({"momentum": 1.0}, r"momentum is 1\.0; it must be in \[0, 1\)\."),
        ({"final_time": 0.001}, r"final_time is 0\.001"),
    ],
)
def test_bad_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_claims_need_their_grid() -> None:
    import sims

    one = sims.run(
        "small_start_growth", "smoke", seeds=1, live=True, workers=1, progress=False,
        frequency_exponent=0.0, init_exponent=(0.5, 1.0), final_time=0.4, n_probes=2,
    )  # fmt: skip
    known = contract.experiment("small_start_growth").claims
    assert {claim.id for claim in known} == {f"W2.{number}" for number in range(1, 7)}
    verdicts = {claim.id: claim.verdict for claim in one.claims}
    assert all(verdicts[name] == "not_measured" for name in ("W2.1", "W2.3", "W2.4", "W2.5", "W2.6"))


# --- Adam


def adam(gamma: float, learning_rate: float, n_steps: int) -> tuple[list[float], list[np.ndarray]]:
    """Score margin after every step, and the first change of W_q with the gradient that made it; float64, all contexts of two."""
    layer = theory.MatchingLayer(24, 2, 64, 32, gamma, 32**-0.5)
    query, key = (
        torch.tensor(part[0], requires_grad=True)
        for part in theory.draw_starts(layer, 1, np.random.default_rng(7))
    )
    optimiser = torch.optim.Adam([query, key], lr=learning_rate, eps=1e-8)
    others = ~torch.eye(24, dtype=torch.bool)
    margins: list[float] = []
    first: list[np.ndarray] = []
    for _ in range(n_steps):
        optimiser.zero_grad()
        scores = query.mT @ key * layer.score_scale
        lead = (scores.diagonal()[:, None] - scores)[others]
        torch.nn.functional.softplus(-lead).mean().backward()
        before = query.detach().numpy().copy()
        optimiser.step()
        if not first:
            assert query.grad is not None
            first = [query.detach().numpy() - before, query.grad.numpy().copy()]
        margins.append(float(lead.detach().mean()))
    return margins, first


def test_adams_first_step_is_the_sign() -> None:
    """Exactly η g/(|g| + ε), to rounding; and so η sign(g) to ε/|g|, which is 1e-8/1e-6 here at worst for most entries."""
    _, (change, gradient) = adam(0.75, 1e-3, 1)
    assert np.allclose(change, theory.adam_first_step(gradient, 1e-3), rtol=1e-9, atol=1e-15)
    large = np.abs(gradient) > 1e-6
    assert large.mean() > 0.95
    assert np.allclose(change[large], -1e-3 * np.sign(gradient[large]), rtol=0.01)


def test_adam_forgets_how_small_the_start_was() -> None:
    """Steps to a margin of 1/2: theory's sign distance over η, less for steps up to √3 η; the start costs σ/η steps at most."""
    layer, rate = theory.MatchingLayer(24, 2, 64, 32, 1.0, 32**-0.5), 2e-3
    expected = math.sqrt(0.5 / (layer.score_scale * 32)) / rate
    steps = {}
    for gamma in (0.6, 1.0, 1.5):
        margins, _ = adam(gamma, rate, 260)
        steps[gamma] = int(np.argmax(np.array(margins) >= 0.5))
        assert margins[-1] > 0.5
    assert expected / math.sqrt(3) * 0.9 < steps[1.5] < expected * 1.1, (expected, steps)
    assert abs(steps[1.0] - steps[1.5]) < 64**-1.0 / rate + 2
    descent = [theory.escape_time(dataclasses.replace(layer, init_exponent=one), 0.5) for one in (1.0, 1.5)]
    assert descent[1] / descent[0] > 1.5  # gradient descent waits half as long again
