"""The one-layer model against a plain loop over explicit one-hot features, and that a seed in a stack is the seed alone."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.models.one_layer_recall import FEATURES, OneLayerRecall, build
from sims.tasks.noisy_recall import Sampler, last_token_loss
from sims.training import Training, make_optimiser, train
from tests.strategies import noisy_recalls
from theory.problems import MarkovChain, NoisyRecall

MATRICES = ("feed_forward", "value", "key_query")
READS: list[Any] = [
    dict(zip(("feed_forward_features", "value_features", "query_features"), words, strict=True))
    for words in itertools.product(FEATURES, repeat=3)
]
PROBLEM = NoisyRecall.theory_version(4, 6, 0.3)


def filled(problem: NoisyRecall, seeds: int, key: int, **features: Any) -> OneLayerRecall:
    """A model in float64 with weights N(0, 1)."""
    model = build(problem, seeds, dtype=torch.float64, **features)
    generator = torch.Generator().manual_seed(key)
    with torch.no_grad():
        for name in MATRICES:
            getattr(model, name).normal_(generator=generator)
    return model


def contexts_of(problem: NoisyRecall, seeds: int, size: int, key: int) -> torch.Tensor:
    """Contexts of any tokens, the last one too, so that nothing rests on the trigger's standing there."""
    shape = (seeds, size, problem.context_length)
    return torch.randint(problem.vocabulary_size, shape, generator=torch.Generator().manual_seed(key))


def by_loop(
    model: OneLayerRecall, seed: int, context: list[int], parts: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Attention (T,) and logits (V,) of one context, from embeddings written out as vectors."""
    size = model.vocabulary_size
    w_f, w_v, w_kq = (getattr(model, name)[seed].detach().numpy() for name in MATRICES)
    current, both = [], []
    for place, token in enumerate(context):
        own = np.zeros(2 * size)
        own[token] = 1
        whole = own.copy()
        if place:
            whole[size + context[place - 1]] = 1
        current.append(own)
        both.append(whole)
    read = {"current": current, "both": both}
    query = read[model.query_features][-1]
    scores = np.array([key @ w_kq @ query for key in both])
    attention = np.exp(scores - scores.max())
    attention /= attention.sum()
    logits = np.zeros(size)
    if "feed_forward" in parts:
        logits += w_f @ read[model.feed_forward_features][-1]
    if "attention" in parts:
        for share, features in zip(attention, read[model.value_features], strict=True):
            logits += share * (w_v @ features)
    return attention, logits


@pytest.mark.parametrize("features", READS)
@pytest.mark.parametrize("parts", [("feed_forward", "attention"), ("attention",), ("feed_forward",), ()])
def test_attention_and_logits_against_a_loop(features: dict[str, str], parts: tuple[str, ...]) -> None:
    model, contexts = filled(PROBLEM, 2, 3, **features), contexts_of(PROBLEM, 2, 7, 4)
    attention, logits = model.attention(contexts), model.logits(contexts, parts)
    assert attention.shape == (2, 7, 6)
    assert logits.shape == (2, 7, 5)
    for seed, place in itertools.product(range(2), range(7)):
        a, expected = by_loop(model, seed, contexts[seed, place].tolist(), parts)
        # float64: a dozen terms of order 1 each, some roundings of 1.1e-16 each.
        np.testing.assert_allclose(attention[seed, place].detach(), a, rtol=0, atol=1e-14)
        np.testing.assert_allclose(logits[seed, place].detach(), expected, rtol=0, atol=1e-14)


@given(problem=noisy_recalls(7, 8, versions=("theory",)), key=st.integers(0, 999), word=st.integers(0, 7))
def test_any_problem_against_a_loop(problem: NoisyRecall, key: int, word: int) -> None:
    model, contexts = filled(problem, 1, key, **READS[word]), contexts_of(problem, 1, 2, key)
    for place in range(2):
        a, expected = by_loop(model, 0, contexts[0, place].tolist(), ("feed_forward", "attention"))
        np.testing.assert_allclose(model.attention(contexts)[0, place].detach(), a, rtol=0, atol=1e-14)
        np.testing.assert_allclose(model.logits(contexts)[0, place].detach(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("features", READS)
def test_gradients_against_finite_differences(features: dict[str, str]) -> None:
    model, contexts = filled(PROBLEM, 2, 5, **features), contexts_of(PROBLEM, 2, 3, 6)
    labels = torch.randint(5, (2, 3), generator=torch.Generator().manual_seed(7))

    def loss(*weights: torch.Tensor) -> torch.Tensor:
        given_weights: Any = dict(zip(MATRICES, weights, strict=True))
        return last_token_loss(model.logits(contexts, **given_weights), labels)

    weights = tuple(getattr(model, name) for name in MATRICES)
    # gradcheck's own steps of 1e-6 leave 1e-10 of rounding and 1e-12 of curvature, below its tolerances here.
    assert torch.autograd.gradcheck(loss, weights, eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("features", READS)
def test_features_that_are_not_read_have_no_gradient(features: dict[str, str]) -> None:
    model, contexts = filled(PROBLEM, 1, 5, **features), contexts_of(PROBLEM, 1, 50, 6)
    last_token_loss(model.logits(contexts), contexts[..., 0]).backward()
    for name, word in zip(MATRICES, features.values(), strict=True):
        gradient = getattr(model, name).grad
        assert gradient[..., :5].any()
        assert bool(gradient[..., 5:].any()) == (word == "both")


def test_other_weights_take_the_place_of_the_models() -> None:
    model, other = filled(PROBLEM, 2, 1), filled(PROBLEM, 2, 2)
    contexts = contexts_of(PROBLEM, 2, 4, 3)
    for name in MATRICES:
        mixed = dataclasses.replace(model, **{name: getattr(other, name)})
        replaced: Any = {name: getattr(other, name)}
        changed = model.logits(contexts, **replaced)
        assert torch.equal(changed, mixed.logits(contexts))
        assert not torch.equal(changed, model.logits(contexts))
    assert torch.equal(model.attention(contexts, other.key_query), other.attention(contexts))


def test_it_starts_at_zero_with_uniform_attention() -> None:
    model = build(PROBLEM, 2)
    contexts = contexts_of(PROBLEM, 2, 4, 3)
    assert torch.equal(model.attention(contexts), torch.full((2, 4, 6), 1 / 6))
    assert not model.logits(contexts).any()
    for name, shape in zip(MATRICES, [(2, 5, 10), (2, 5, 10), (2, 10, 10)], strict=True):
        weights = getattr(model, name)
        assert weights.shape == shape
        assert weights.dtype == torch.float32
        assert weights.requires_grad
        assert not weights.any()
    assert build(PROBLEM, 1, dtype=torch.float64).value.dtype == torch.float64


@given(key=st.integers(0, 999), word=st.integers(0, 7))
def test_a_permutation_of_the_tokens_permutes_the_logits(key: int, word: int) -> None:
    """Any permutation, and so one of the generic tokens: π(v) takes the place of v in weights and contexts."""
    model, contexts = filled(PROBLEM, 2, key, **READS[word]), contexts_of(PROBLEM, 2, 5, key)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(key))
    features = torch.cat([order, 5 + order])
    moved: Any = {}
    for name, rows in zip(MATRICES, (order, order, features), strict=True):
        moved[name] = torch.empty_like(getattr(model, name))
        moved[name][:, rows[:, None], features] = getattr(model, name)
    before, after = model.logits(contexts), model.logits(order[contexts], **moved)
    # Sums over tokens are taken in another order: roundings as in the loops above.
    torch.testing.assert_close(after[..., order], before, rtol=0, atol=1e-14)
    attention = model.attention(order[contexts], moved["key_query"])
    torch.testing.assert_close(attention, model.attention(contexts), rtol=0, atol=1e-14)


def trained(
    problem: NoisyRecall, seeds: tuple[int, ...], optimiser: str, features: dict[str, Any]
) -> np.ndarray:
    """Logits after 1 and 20 steps on each seed's own data, shape (seeds, batch, V, 2)."""
    model = build(problem, len(seeds), **features)
    sampler = Sampler(problem)
    data = torch.stack([sampler.draw(64, torch.Generator().manual_seed(one)).sequences for one in seeds])
    rates = (
        {"feed_forward": 0.5, "value": 0.5, "key_query": 0.5}
        if optimiser == "sgd"
        else dict.fromkeys(MATRICES, 0.05)
    )
    step = make_optimiser(model.parameter_groups(**rates), optimiser, 1.0)
    read = train(
        Training(step, lambda: last_token_loss(model.logits(data[..., :-1]), data[..., -1])),
        [1, 20],
        lambda: {"logits": model.logits(data[..., :-1]).numpy(force=True)},
    )
    assert np.abs(read["logits"][..., -1]).max() > 0.1  # it has learnt something
    return read["logits"]


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("features", [READS[0], READS[-1]])
def test_stacked_seeds_equal_seeds_alone_bit_for_bit(optimiser: str, features: dict[str, str]) -> None:
    """At a vocabulary that is a multiple of four, as in the associative memory's test."""
    problem = NoisyRecall.theory_version(7, 12, 0.3)
    together = trained(problem, (0, 1, 2), optimiser, features)
    alone = np.concatenate([trained(problem, (seed,), optimiser, features) for seed in (0, 1, 2)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("n_tokens", [3, 4, 9])
def test_stacked_seeds_are_close_at_any_vocabulary(n_tokens: int) -> None:
    problem = NoisyRecall.theory_version(n_tokens, 9, 0.3)
    together = trained(problem, (0, 1, 2), "sgd", READS[-1])
    alone = np.concatenate([trained(problem, (seed,), "sgd", READS[-1]) for seed in (0, 1, 2)])
    # Twenty steps, each with a few roundings of float32 (6e-8) on logits below 8, that descent does not amplify.
    np.testing.assert_allclose(together, alone, rtol=0, atol=20 * 4 * 8 * 6e-8)


@pytest.mark.parametrize("frozen", [("feed_forward",), ("value", "key_query"), ("key_query",), ()])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_frozen_matrices_stay_and_others_have_their_rates(frozen: tuple[str, ...], optimiser: str) -> None:
    model, contexts = filled(PROBLEM, 1, 8), contexts_of(PROBLEM, 1, 20, 9)
    before = {name: getattr(model, name).detach().clone() for name in MATRICES}
    all_rates = {"feed_forward": 0.1, "value": 0.2, "key_query": 0.4}
    rates = {name: 0.0 if name in frozen else rate for name, rate in all_rates.items()}
    groups = model.parameter_groups(**rates)
    assert [group["lr"] for group in groups] == [rate for rate in rates.values() if rate]
    step = make_optimiser(groups, optimiser, 1.0)
    Training(step, lambda: last_token_loss(model.logits(contexts), contexts[..., 0])).advance(1)
    for name, rate in rates.items():
        change = getattr(model, name).detach() - before[name]
        assert bool(change.any()) == (rate > 0)
        gradient = getattr(model, name).grad
        if rate and optimiser == "sgd":
            # A step is one product and one difference of numbers of order 1, in float64.
            torch.testing.assert_close(change, -rate * gradient, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("rates", "answer"),
    [
        ((-1.0, 0.0, 1.0), r"learning rate of feed_forward is -1\.0; it must be finite and at least 0"),
        ((1.0, float("nan"), 1.0), "learning rate of value is nan; it must be finite"),
        ((1.0, 0.0, float("inf")), "learning rate of key_query is inf; it must be finite"),
        ((0.0, 0.0, 0.0), "learning rates of feed_forward, value, key_query are 0; one must be above 0"),
    ],
)
def test_bad_rates_are_told(rates: tuple[float, ...], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        build(PROBLEM, 1).parameter_groups(**dict(zip(MATRICES, rates, strict=True)))


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"value_features": "all"}, "value_features is 'all'; it must be one of current, both"),
        ({"feed_forward_features": ""}, "feed_forward_features is ''; it must be one of"),
        ({"query_features": "previous"}, "query_features is 'previous'; it must be one of"),
        ({"n_seeds": 0}, "n_seeds is 0; it must be at least 1"),
        (
            {"problem": NoisyRecall.experiment_version(MarkovChain.uniform(4), 5, 0.3, 0)},
            "scored is 'repeated'; this model predicts at the last position alone",
        ),
    ],
)
def test_bad_models_are_told(fields: dict[str, Any], answer: str) -> None:
    arguments: dict[str, Any] = {"problem": PROBLEM, "n_seeds": 1}
    with pytest.raises(ValueError, match=answer):
        build(**{**arguments, **fields})


def test_an_unknown_part_is_told() -> None:
    with pytest.raises(ValueError, match="parts has 'value'; it must have none but feed_forward, attention"):
        build(PROBLEM, 1).logits(contexts_of(PROBLEM, 1, 1, 0), ("value",))
