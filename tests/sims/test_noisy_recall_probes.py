"""Probes of noisy recall against plain loops, and what must not change them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.models.one_layer_recall import OneLayerRecall, build
from sims.probes.noisy_recall import (
    CLASSES,
    KINDS,
    answer_probabilities,
    attention_shares,
    order_parameters,
)
from tests.strategies import noisy_recalls
from theory.problems import MarkovChain, NoisyRecall

KEYS = st.integers(0, 9999)
PROBLEM = NoisyRecall.theory_version(5, 7, 0.3, trigger=2)


def drawn(
    problem: NoisyRecall, seeds: int, size: int, key: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attention, contexts, targets, logits, with any tokens anywhere."""
    generator = torch.Generator().manual_seed(key)
    shape = (seeds, size, problem.context_length)
    attention = torch.randn(shape, generator=generator, dtype=torch.float64).softmax(-1)
    contexts = torch.randint(problem.vocabulary_size, shape, generator=generator)
    contexts[..., -1] = problem.triggers[0]
    places = torch.randint(len(problem.targets), shape[:2], generator=generator)
    logits = 2 * torch.randn(seeds, size, problem.vocabulary_size, generator=generator, dtype=torch.float64)
    return attention, contexts, torch.tensor(problem.targets)[places], logits


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


@given(problem=noisy_recalls(6, 8, versions=("theory", "experiment")), size=st.integers(1, 5), key=KEYS)
def test_attention_shares_against_loops(problem: NoisyRecall, size: int, key: int) -> None:
    attention, contexts, targets, _ = drawn(problem, 2, size, key)
    if len(problem.triggers) > 1:
        with pytest.raises(ValueError, match=r"triggers is .*one trigger"):
            attention_shares(attention, contexts, problem, targets)
        return
    found = attention_shares(attention, contexts, problem, targets)
    for seed in range(2):
        lists: dict[str, list[float]] = {name: [] for name in found}
        for place in range(size):
            shares = dict.fromkeys(("target", "noise", "trigger", "rest"), 0.0)
            present = False
            context, target = contexts[seed, place].tolist(), int(targets[seed, place])
            for position, token in enumerate(context):
                answers = position > 0 and context[position - 1] == problem.trigger
                if token == problem.trigger:
                    name = "trigger"
                elif answers and token == target:
                    name, present = "target", True
                elif answers and token == problem.noise_token:
                    name = "noise"
                else:
                    name = "rest"
                shares[name] += float(attention[seed, place, position])
            for name, share in shares.items():
                lists[name].append(share)
            lists["target_present"].append(float(present))
            if present:
                lists["target_given_present"].append(shares["target"])
                lists["noise_given_present"].append(shares["noise"])
        for name, values in lists.items():
            assert found[name].shape == (2,)
            assert found[name].dtype == np.float64
            # float64, tens of terms below 1
            assert found[name][seed] == pytest.approx(mean(values), abs=1e-14, nan_ok=True)
        total = sum(found[name][seed] for name in ("target", "noise", "trigger", "rest"))
        assert total == pytest.approx(1, abs=1e-14)


def test_attention_shares_of_one_context_by_hand() -> None:
    # Trigger 2, noise token 5, target 1; the trigger stands before the last position's forced one.
    contexts = torch.tensor([[[2, 1, 2, 5, 1, 2, 2]]])
    attention = torch.tensor([[[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]]]) / 127
    found = attention_shares(attention, contexts, PROBLEM, torch.tensor([[1]]))
    expected = {"target": 2, "noise": 8, "trigger": 1 + 4 + 32 + 64, "rest": 16}
    for name, weight in expected.items():
        # float32 attention
        assert found[name][0] == pytest.approx(weight / 127, abs=3e-7)
    assert found["target_present"][0] == 1
    other = attention_shares(attention, contexts, PROBLEM, torch.tensor([[0]]))
    assert other["target"][0] == other["target_present"][0] == 0
    assert np.isnan(other["target_given_present"][0])
    assert np.isnan(other["noise_given_present"][0])


@given(problem=noisy_recalls(6, 5), size=st.integers(1, 6), key=KEYS, masked=st.booleans())
def test_answer_probabilities_against_loops(problem: NoisyRecall, size: int, key: int, masked: bool) -> None:
    _, contexts, targets, logits = drawn(problem, 3, size, key)
    chosen = contexts[..., 0] == contexts[..., 1] if masked else None
    found = answer_probabilities(logits, targets, problem, chosen)
    for seed in range(3):
        lists: dict[str, list[float]] = {"target": [], "noise": [], "other": []}
        for place in range(size):
            if chosen is not None and not chosen[seed, place]:
                continue
            weights = [math.exp(float(one)) for one in logits[seed, place]]
            total, target = math.fsum(weights), int(targets[seed, place])
            sums = {"target": 0.0, "noise": 0.0, "other": 0.0}
            for token, weight in enumerate(weights):
                name = "target" if token == target else "noise" if token == problem.noise_token else "other"
                sums[name] += weight / total
            for name, value in sums.items():
                lists[name].append(value)
        for name, values in lists.items():
            assert found[name].shape == (3,)
            # float64, a few terms below 1
            assert found[name][seed] == pytest.approx(mean(values), abs=1e-14, nan_ok=True)


def test_extreme_logits_give_finite_probabilities() -> None:
    logits = torch.tensor([[[1e4, -1e4, 0.0, 0.0, 0.0, 0.0]]])
    found = answer_probabilities(logits, torch.tensor([[0]]), PROBLEM)
    assert [found[name][0] for name in ("target", "noise", "other")] == [1, 0, 0]


def test_contexts_that_are_not_chosen_do_not_matter_even_when_not_finite() -> None:
    logits = torch.zeros(1, 2, 6)
    logits[0, 1] = torch.nan
    found = answer_probabilities(logits, torch.tensor([[0, 0]]), PROBLEM, torch.tensor([[True, False]]))
    assert found["target"][0] == pytest.approx(1 / 6, abs=1e-15)


def filled(problem: NoisyRecall, seeds: int, key: int, dtype: torch.dtype = torch.float64) -> OneLayerRecall:
    model = build(problem, seeds, "both", "both", "both", dtype=dtype)
    generator = torch.Generator().manual_seed(key)
    with torch.no_grad():
        for weights in (model.feed_forward, model.value, model.key_query):
            weights.normal_(generator=generator)
    return model


def kind(problem: NoisyRecall, token: int) -> str:
    if token == problem.noise_token:
        return "noise"
    return "trigger" if token == problem.trigger else "generic"


def pair(problem: NoisyRecall, row: int, column: int) -> str:
    name = f"{kind(problem, row)}_{kind(problem, column)}"
    return name if name != "generic_generic" else "same" if row == column else "different"


def loop_classes(
    model: OneLayerRecall, problem: NoisyRecall, seed: int
) -> tuple[dict[str, list[float]], float]:
    size, q = problem.vocabulary_size, problem.trigger
    value, feed, key_query = (
        one[seed].tolist() for one in (model.value, model.feed_forward, model.key_query)
    )
    entries: dict[tuple[str, str], list[float]] = {}
    for row, column in itertools.product(range(size), repeat=2):
        name = pair(problem, row, column)
        entries.setdefault(("value", name), []).append(value[row][column])
        entries.setdefault(("value_previous", name), []).append(value[row][size + column])
    for token in range(size):
        name = kind(problem, token)
        entries.setdefault(("feed_forward", name), []).append(feed[token][q])
        entries.setdefault(("key_query", "current " + name), []).append(key_query[token][q])
        entries.setdefault(("key_query", "previous " + name), []).append(key_query[size + token][q])
    orders = {
        "value": list(CLASSES),
        "value_previous": list(CLASSES),
        "feed_forward": list(KINDS),
        "key_query": [f"{block} {name}" for block in ("current", "previous") for name in KINDS],
    }
    means = {
        block: [mean(entries.get((block, name), [])) for name in names] for block, names in orders.items()
    }
    spread = max(abs(one - mean(values)) for values in entries.values() for one in values)
    return means, spread


SMALL = NoisyRecall(MarkovChain.uniform(3), 4, 0.3, (0,), 1, (2,), "last")  # one generic token


@given(
    problem=st.one_of(noisy_recalls(8, 4, versions=("theory",)), st.just(SMALL)),
    seeds=st.integers(1, 3),
    key=KEYS,
)
def test_order_parameters_against_loops(problem: NoisyRecall, seeds: int, key: int) -> None:
    model = filled(problem, seeds, key)
    found = order_parameters(model, problem)
    assert set(found) == {"value", "value_previous", "feed_forward", "key_query", "spread"}
    for seed in range(seeds):
        means, spread = loop_classes(model, problem, seed)
        for name, expected in means.items():
            assert found[name].shape == (seeds, len(expected))
            assert found[name].dtype == np.float64
            # float64, at most 49 terms of order 1
            np.testing.assert_allclose(found[name][seed], expected, rtol=0, atol=1e-13)
        assert found["spread"][seed] == pytest.approx(spread, abs=1e-13)
    assert np.isnan(found["value"][:, 9]).any() == (problem is SMALL or problem.vocabulary_size < 4)


@given(problem=noisy_recalls(8, 4, versions=("theory",)), key=KEYS)
def test_a_permutation_of_generic_tokens_changes_nothing(problem: NoisyRecall, key: int) -> None:
    size = problem.vocabulary_size
    generic = torch.tensor([one for one in range(size) if kind(problem, one) == "generic"])
    order = torch.arange(size)
    order[generic] = generic[torch.randperm(len(generic), generator=torch.Generator().manual_seed(key))]
    features = torch.cat([order, size + order])
    model = filled(problem, 2, key)
    moved = OneLayerRecall(
        model.feed_forward[:, order][..., features],
        model.value[:, order][..., features],
        model.key_query[:, features][..., features],
        "both",
        "both",
        "both",
    )
    before, after = order_parameters(model, problem), order_parameters(moved, problem)
    for name, values in before.items():
        # Sums over tokens are taken in another order.
        np.testing.assert_allclose(after[name], values, rtol=0, atol=1e-13)


def test_weights_that_are_constant_on_classes_have_no_spread() -> None:
    problem = NoisyRecall.theory_version(6, 5, 0.3, trigger=4)
    model = build(problem, 1, dtype=torch.float64)
    size = problem.vocabulary_size
    with torch.no_grad():
        for row, column in itertools.product(range(size), repeat=2):
            model.value[0, row, column] = CLASSES.index(pair(problem, row, column))
            model.value[0, row, size + column] = -1 - CLASSES.index(pair(problem, row, column))
        for token in range(size):
            place = KINDS.index(kind(problem, token))
            model.feed_forward[0, token, 4] = 10 + place
            model.feed_forward[0, token, 3] = 99 + token  # another query's column is not read
            model.key_query[0, token, 4] = 20 + place
            model.key_query[0, size + token, 4] = 30 + place
            model.key_query[0, token, 3] = 99 + token
    found = order_parameters(model, problem)
    # Means of equal small integers are exact but for the division.
    np.testing.assert_allclose(found["value"], [np.arange(10)], atol=1e-14)
    np.testing.assert_allclose(found["value_previous"], [-1.0 - np.arange(10)], atol=1e-14)
    np.testing.assert_allclose(found["feed_forward"], [[10, 11, 12]], atol=1e-14)
    np.testing.assert_allclose(found["key_query"], [[20, 21, 22, 30, 31, 32]], atol=1e-14)
    assert found["spread"][0] == pytest.approx(0, abs=1e-14)


def test_seeds_are_read_one_by_one() -> None:
    attention, contexts, targets, logits = drawn(PROBLEM, 3, 8, 1)
    model = filled(PROBLEM, 3, 2)
    whole = [
        attention_shares(attention, contexts, PROBLEM, targets),
        answer_probabilities(logits, targets, PROBLEM),
        order_parameters(model, PROBLEM),
    ]
    for seed in range(3):
        one = slice(seed, seed + 1)
        weights = (model.feed_forward[one], model.value[one], model.key_query[one])
        alone = [
            attention_shares(attention[one], contexts[one], PROBLEM, targets[one]),
            answer_probabilities(logits[one], targets[one], PROBLEM),
            order_parameters(OneLayerRecall(*weights), PROBLEM),
        ]
        for together, single in zip(whole, alone, strict=True):
            for name, values in single.items():
                # Sums may be split otherwise.
                np.testing.assert_allclose(together[name][one], values, rtol=0, atol=1e-14)
