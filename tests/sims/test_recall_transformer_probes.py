"""Probes of the recall transformer against loops over sequences, and on constructed models whose answers are known."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sims.interventions.low_rank import Spectrum
from sims.interventions.surgery import zeroed
from sims.models.transformer import Architecture, Transformer
from sims.probes import recall_transformer as probes
from sims.probes.recall_transformer import Evaluation
from sims.roles import matrix, with_matrix
from sims.streams import torch_generator
from sims.tasks.noisy_recall import Sampler, ScoredPlaces
from tests.sims.small_transformers import FEED_FORWARDS, architectures, by_loop, drawn, fingerprint
from theory.problems import MarkovChain, NoisyRecall

KEYS = st.integers(0, 9999)
PROBLEM = NoisyRecall.experiment_version(MarkovChain.zipf_dirichlet(6), 10, 0.4, 5)
ARCHITECTURE = Architecture(6, 10, 4, hidden_multiplier=2)
ROUNDING = 1e-12
"""float64, sums of some hundred terms of order one."""


class Asked(NamedTuple):
    """One scored place, found by a loop."""

    seed: int
    sequence: int
    entry: int
    place: int
    tokens: list[int]
    target: int
    label: int


def generators(seeds: int, key: int) -> list[torch.Generator]:
    return [torch_generator("test", "probes", key + seed) for seed in range(seeds)]


def evaluated(key: int, seeds: int = 2, size: int = 6, problem: NoisyRecall = PROBLEM) -> Evaluation:
    return probes.evaluation(problem, size, generators(seeds, key), "cpu")


def by_sequence(key: int, seeds: int = 2, size: int = 6, problem: NoisyRecall = PROBLEM) -> list[Asked]:
    """The same places, token by token."""
    found = []
    for seed, generator in enumerate(generators(seeds, key)):
        batch = Sampler(problem).draw(size, generator)
        for number, (tokens, targets) in enumerate(zip(batch.sequences, batch.targets, strict=True)):
            row, target, entry = tokens.tolist(), int(targets[0]), 0
            for place in range(problem.context_length):
                if row[place] == problem.trigger and problem.trigger in row[:place]:
                    if target != problem.noise_token:
                        found.append(Asked(seed, number, entry, place, row[:-1], target, row[place + 1]))
                    entry += 1
    return found


def means(values: list[list[float]]) -> np.ndarray:
    return np.array([math.fsum(one) / len(one) if one else math.nan for one in values])


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


def model_and_logits(
    key: int, architecture: Architecture = ARCHITECTURE
) -> tuple[Transformer, Evaluation, torch.Tensor]:
    asked, model = evaluated(key), drawn(architecture, (key, key + 1))
    return model, asked, model.logits(asked.contexts, asked.places.at)


@given(KEYS)
def test_what_is_asked_against_a_loop(key: int) -> None:
    asked, expected = evaluated(key), by_sequence(key)
    entries = {(one.seed, one.sequence, one.entry): one for one in expected}
    for index in itertools.product(*map(range, asked.places.valid.shape)):
        assert bool(asked.places.valid[index]) == (index in entries)
        if index in entries:
            one = entries[index]
            assert (int(asked.places.at[index]), int(asked.labels[index])) == (one.place, one.label)
            assert int(asked.targets[index]) == one.target
            assert asked.contexts[index[:2]].tolist() == one.tokens


def test_one_trigger_is_needed() -> None:
    several = NoisyRecall.experiment_version(MarkovChain.uniform(6), 10, 0.4, 5, 2)
    with pytest.raises(ValueError, match=r"^triggers is \(0, 1\); this needs a problem with one trigger\.$"):
        evaluated(0, problem=several)


@settings(max_examples=25)
@given(KEYS)
def test_answers_and_the_table_against_a_loop(key: int) -> None:
    """With logits of a model that sees one sequence at a time, without the batch and its filled-up places."""
    model, asked, logits = model_and_logits(key)
    found = probes.answers(logits, asked, PROBLEM)
    table = probes.noise_table(logits, asked, PROBLEM)
    lists: dict[str, list[list[float]]] = {name: [[], []] for name in found}
    counts = np.zeros((2, 2, 2))
    for one in by_sequence(key):
        scores = by_loop(model, one.seed, one.tokens)[0][one.place].tolist()
        weights = [math.exp(score) for score in scores]
        told = {
            "target": weights[one.target] / math.fsum(weights),
            "noise": weights[5] / math.fsum(weights),
            "accuracy": float(max(scores) == scores[one.target]),
            "accuracy_of_two": float(scores[one.target] > scores[5]),
            "loss": math.log(math.fsum(weights) / weights[one.label]),
        }
        for name, value in told.items():
            lists[name][one.seed].append(value)
        counts[one.seed, int(max(scores) != scores[5]), int(one.label != 5)] += 1
    for name, values in lists.items():
        close(found[name], means(values))
    with np.errstate(invalid="ignore"):  # a seed without a scored place
        close(table, counts / counts.sum((1, 2), keepdims=True))


def by_hand(
    contexts: list[list[int]], at: list[list[int]], labels: list[list[int]], target: int
) -> Evaluation:
    """One seed; a place of −1 is filled up."""
    places = torch.tensor([at])
    valid = places >= 0
    targets = torch.full_like(places, target)
    return Evaluation(
        torch.tensor([contexts]), torch.tensor([labels]), targets, ScoredPlaces(places.clamp(min=0), valid)
    )


HAND = NoisyRecall.experiment_version(MarkovChain.uniform(4), 6, 0.5, 3, (0,))


def test_answers_and_the_table_by_hand() -> None:
    """Four places of one sequence each: noise told and labelled, told alone, labelled alone, neither; a fifth does not count."""
    asked = by_hand([[0] * 6] * 5, [[2]] * 4 + [[-1]], [[3], [1], [3], [1], [3]], 1)
    told = torch.log(torch.tensor([[1, 1, 2, 4], [1, 3, 2, 6], [1, 5, 1, 1], [2, 1, 5, 0]]))
    logits = torch.cat([told, torch.full((1, 4), torch.nan)])[None, :, None]
    table = probes.noise_table(logits, asked, HAND)
    assert table.tolist() == [[[0.25, 0.25], [0.25, 0.25]]]
    found = probes.answers(logits, asked, HAND)
    # float32 logarithms, eight probabilities
    assert found["target"][0] == pytest.approx((1 / 8 + 3 / 12 + 5 / 8 + 1 / 8) / 4, abs=1e-6)
    assert found["noise"][0] == pytest.approx((4 / 8 + 6 / 12 + 1 / 8 + 0) / 4, abs=1e-6)
    assert found["accuracy"][0] == 0.25
    assert found["accuracy_of_two"][0] == 0.5
    expected = -math.log(4 / 8 * 3 / 12 * 1 / 8 * 1 / 8) / 4
    assert found["loss"][0] == pytest.approx(expected, abs=1e-6)
    certain = torch.tensor([0.0, 9.0, 0.0, 0.0]).expand(1, 5, 1, 4)
    assert probes.noise_table(certain, asked, HAND).tolist() == [[[0, 0], [0.5, 0.5]]]
    assert probes.answers(certain, asked, HAND)["accuracy"][0] == 1


def test_large_logits_stay_finite() -> None:
    asked = by_hand([[0] * 6], [[2]], [[3]], 1)
    found = probes.answers(torch.tensor([[[[0.0, -1e4, 0.0, 1e4]]]]), asked, HAND)
    assert [float(found[name][0]) for name in ("target", "noise", "loss")] == [0, 1, 0]


@settings(max_examples=25)
@given(KEYS, st.booleans())
def test_attention_shares_against_a_loop(key: int, stacked: bool) -> None:
    """Of a model's own attention, one sequence at a time."""
    seeds = 2 if stacked else 1
    asked, model = evaluated(key, seeds), drawn(ARCHITECTURE, range(key, key + seeds))
    found = probes.attention_shares(model.trace(asked.contexts, asked.places.at).attention, asked, PROBLEM)
    lists: dict[str, list[list[float]]] = {name: [[] for _ in range(seeds)] for name in found}
    for seed in range(seeds):
        for tokens in asked.contexts[seed].tolist():
            (first, _) = by_loop(model, seed, tokens)[1]
            for name in ("previous_token", "previous_token_early"):
                lists[name][seed] += [first[place, place - 1] for place in range(1, 10)]
    for one in by_sequence(key, seeds):
        attention = by_loop(model, one.seed, one.tokens)[1][1][one.place]
        here = [place for place in range(1, one.place + 1) if one.tokens[place - 1] == PROBLEM.trigger]
        kinds = {
            "after_trigger": here,
            "on_noise": [place for place in here if one.tokens[place] == 5],
            "on_target": [place for place in here if one.tokens[place] == one.target],
        }
        total = {name: float(attention[places].sum()) for name, places in kinds.items()}
        for name in ("after_trigger", "on_noise"):
            lists[name][one.seed].append(total[name])
        if kinds["on_target"]:
            lists["on_target"][one.seed].append(total["on_target"])
            lists["on_noise_shown"][one.seed].append(total["on_noise"])
            lists["noise_shown"][one.seed].append(len(kinds["on_noise"]) / len(here))
    for name, values in lists.items():
        close(found[name], means(values))


def one_hot(places: list[int], length: int = 6) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(places), length)[None, None].float()


def test_attention_by_hand() -> None:
    """Trigger 0, noise 3, target 1; the places asked are 3 and 5, both triggers."""
    asked = by_hand([[0, 3, 0, 1, 0, 2]], [[4, 4]], [[1, 3]], 1)
    first = one_hot([0, 0, 1, 2, 3, 4])
    on_target, on_noise, elsewhere = (one_hot([place, place]) for place in (3, 1, 2))
    for last, expected in ((on_target, (1, 0, 1, 0)), (on_noise, (1, 1, 0, 1)), (elsewhere, (0, 0, 0, 0))):
        found = probes.attention_shares((first, last), asked, HAND)
        names = ("after_trigger", "on_noise", "on_target", "on_noise_shown")
        assert tuple(float(found[name][0]) for name in names) == expected
        assert found["noise_shown"][0] == 0.5
        assert found["previous_token"][0] == found["previous_token_early"][0] == 1
    itself = probes.attention_shares((one_hot([0, 1, 2, 3, 4, 5]), on_target), asked, HAND)
    assert itself["previous_token"][0] == 0
    # At place 5 the token is one after a trigger, and what follows is not seen; the target is not shown before place 3.
    before = by_hand([[0, 3, 0, 1, 0, 2]], [[2, -1]], [[1, 0]], 1)
    found = probes.attention_shares((first, one_hot([1, 3])), before, HAND)
    assert (found["after_trigger"][0], found["on_noise"][0]) == (1, 1)
    assert all(np.isnan(found[name][0]) for name in ("on_target", "on_noise_shown", "noise_shown"))


def test_the_early_reading_is_of_the_first_hundred_positions() -> None:
    length = 130
    problem = NoisyRecall.experiment_version(MarkovChain.uniform(4), length, 0.5, 3, (0,))
    asked = by_hand([[0] * length], [[2]], [[3]], 1)
    for there, early, whole in ((range(101), 100, 100), (range(100, 130), 1, 30)):
        places = [max(place - 1, 0) if place in there else place for place in range(length)]
        found = probes.attention_shares((one_hot(places, length), one_hot([2], length)), asked, problem)
        assert found["previous_token_early"][0] == pytest.approx(early / 100, abs=ROUNDING)
        assert found["previous_token"][0] == pytest.approx(whole / 129, abs=ROUNDING)


@given(st.sampled_from(FEED_FORWARDS), st.sampled_from(FEED_FORWARDS), KEYS)
def test_feed_forward_margins_against_a_loop(first: str, last: str, key: int) -> None:
    model = drawn(Architecture(6, 10, 5, (first, last), hidden_multiplier=2), (key, key + 1))
    found = probes.feed_forward_margins(model, PROBLEM)

    def added(seed: int, layer: int, kind: str, x: np.ndarray) -> np.ndarray:
        if kind == "none":
            return 0 * x
        if kind == "relu":
            x = np.maximum(model.weights[f"feed_forward_in.{layer}"][seed].numpy() @ x, 0)
        return model.weights[f"feed_forward_out.{layer}"][seed].numpy() @ x

    for seed in range(2):
        trigger = model.weights["embedding"][seed, PROBLEM.trigger].numpy()
        streams = {"first": added(seed, 0, first, trigger), "last": added(seed, 1, last, trigger)}
        streams["both"] = added(seed, 1, last, streams["first"])
        for name, stream in streams.items():
            logits = [float(row @ stream) for row in model.weights["unembedding"][seed].numpy()]
            expected = logits[5] - max(logits[:5])
            assert found[name][seed] == pytest.approx(expected, abs=ROUNDING)


@given(architectures(vocabulary_size=6, context_length=10, feed_forward=("relu", "relu"), residual=(True, True)),
       st.sampled_from(FEED_FORWARDS), KEYS)  # fmt: skip
def test_memories_against_loops(architecture: Architecture, last: str, key: int) -> None:
    shape = Architecture(6, 10, architecture.width, ("relu", last), query=architecture.query)
    model = drawn(shape, (key, key + 1))
    found = probes.memories(model, PROBLEM)
    for seed in range(2):
        weights = {name: one[seed].numpy() for name, one in model.weights.items()}
        tokens, places, out = (weights[name] for name in ("embedding", "positions", "unembedding"))

        def best(layer: int, query: np.ndarray, keys: list[np.ndarray], weights: dict = weights) -> int:
            if shape.query == "trained":
                query = weights[f"query.{layer}"] @ query
            return int(np.argmax([float(query @ (weights[f"key.{layer}"] @ one)) for one in keys]))

        first, second = (weights[f"attention_output.{layer}"] @ weights[f"value.{layer}"] for layer in (0, 1))
        previous = [best(0, places[t], list(places[: t + 1])) == t - 1 for t in range(1, 10)]
        same = [best(1, tokens[v], [first @ one for one in tokens]) == v for v in range(6)]
        copied = [int(np.argmax(out @ (second @ tokens[v]))) == v for v in range(6)]
        divergences = []
        for v in range(6):
            x = tokens[v]
            if last == "relu":
                x = np.maximum(weights["feed_forward_in.1"] @ x, 0)
            logits = out @ (weights["feed_forward_out.1"] @ x) if last != "none" else np.zeros(6)
            row = PROBLEM.chain.transition[v]
            told = logits - math.log(math.fsum(np.exp(logits)))
            if v != PROBLEM.trigger:
                divergences.append(
                    math.fsum(p * (math.log(p) - q) for p, q in zip(row, told, strict=True) if p)
                )
        expected = {
            "previous_position": np.mean(previous),
            "same_token": np.mean(same),
            "same_token_trigger": float(same[PROBLEM.trigger]),
            "copying": np.mean(copied),
            "bigram_divergence": np.mean(divergences),
            "soft_rank": np.linalg.norm(second) / np.linalg.svd(second)[1][0],
        }
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name].shape == (2,)
            assert found[name][seed] == pytest.approx(float(value), abs=1e-10), (
                name
            )  # a soft rank divides by a norm


def constructed(query: str = "identity") -> Transformer:
    """Two blocks whose matrices hold all associations: embeddings and positions are unit vectors, W_U gives tokens back.

    Block 0 looks one position back and writes the token there into a space of its own; block 1 looks for its own token there and
    copies; its feed-forward holds the chain's bigrams.
    """
    size, length = 6, 10
    width = 2 * size + length
    model = drawn(Architecture(size, length, width, ("none", "linear"), query=query))
    unit = torch.eye(width, dtype=torch.float64)
    token, position, written = unit[:size], unit[size : size + length], unit[size + length :]
    bigrams = torch.tensor(PROBLEM.chain.transition).log()
    changed = {
        "embedding": token,
        "positions": position,
        "unembedding": token,
        "key.0": position[1:].mT @ position[:-1],
        "value.0": written.mT @ token,
        "attention_output.0": unit,
        "key.1": token.mT @ written,
        "value.1": token.mT @ token,
        "attention_output.1": unit,
        "feed_forward_out.1": token.mT @ bigrams.mT @ token,
    }
    if query == "trained":
        changed |= {"query.0": 2 * unit, "query.1": 2 * unit}
    return model.with_weights({name: one[None] for name, one in changed.items()})


@pytest.mark.parametrize("query", ["identity", "trained"])
def test_memories_of_a_constructed_model_are_perfect(query: str) -> None:
    model = constructed(query)
    found = probes.memories(model, PROBLEM)
    for name in ("previous_position", "same_token", "same_token_trigger", "copying"):
        assert found[name].tolist() == [1], name
    assert found["bigram_divergence"][0] == pytest.approx(0, abs=ROUNDING)
    assert found["soft_rank"][0] == pytest.approx(math.sqrt(6), abs=ROUNDING)  # six equal singular values
    shuffled = model.with_weights(
        {"key.0": model.weights["key.0"].mT, "key.1": model.weights["key.1"].roll(1, 1)}
    )
    wrong = probes.memories(shuffled, PROBLEM)
    # Position t now looks to t + 1, which it cannot see: all it sees ties at zero, which can be right once.
    assert wrong["previous_position"][0] <= 1 / 9
    assert wrong["same_token"][0] <= 1 / 6
    assert wrong["copying"][0] == 1


def test_memories_of_a_zero_model_are_chance() -> None:
    model = constructed()
    nothing = model.with_weights(
        {name: torch.zeros_like(one) for name, one in model.weights.items() if "." in name}
    )
    found = probes.memories(nothing, PROBLEM)
    # All keys tie, and one of them is taken: right for one position and for one token at most.
    assert found["previous_position"][0] <= 1 / 9
    assert found["same_token"][0] <= 1 / 6
    assert found["copying"][0] <= 1 / 6
    rows = PROBLEM.chain.transition[1:]
    expected = math.log(6) + float((rows * np.log(rows)).sum(1).mean())
    assert found["bigram_divergence"][0] == pytest.approx(expected, abs=ROUNDING)
    assert np.isnan(found["soft_rank"][0])


@settings(max_examples=25)
@given(KEYS)
def test_the_noise_margin_against_a_loop(key: int) -> None:
    model, asked, _ = model_and_logits(key)
    lists: list[list[float]] = [[], []]
    for one in by_sequence(key):
        logits = by_loop(model, one.seed, one.tokens)[0][one.place].tolist()
        lists[one.seed].append(logits[5] - math.fsum(logits[:5]) / 5)
    close(probes.noise_margin(model, asked, PROBLEM).numpy(), means(lists))


PLACES = [
    *((role, layer) for layer in (0, 1) for role in ("key", "value", "attention_output", "value_output")),
    *((role, layer) for layer in (0, 1) for role in ("feed_forward_in", "feed_forward_out")),
]


@pytest.mark.parametrize(("role", "layer"), PLACES)
@pytest.mark.parametrize("key", [0, 6])
def test_component_shares_by_finite_differences(role: str, layer: int, key: int) -> None:
    """The slope in each singular value, times it, of numpy's decomposition; the loop takes a product as one matrix."""
    model, asked, _ = model_and_logits(key)
    places, h = by_sequence(key), 1e-6
    assert {one.seed for one in places} == {0, 1}
    before = fingerprint(model)
    with torch.no_grad():
        shares = probes.component_shares(model, asked, PROBLEM, role, layer)
    assert fingerprint(model) == before
    whole = matrix(model, role, layer).numpy()

    def margin(seed: int, changed: np.ndarray) -> float:
        products = {layer: changed} if role == "value_output" else None
        other = model
        if role != "value_output":
            stack = torch.from_numpy(np.stack([changed, changed]))
            other = with_matrix(model, role, layer, stack)
        values = []
        for one in places:
            if one.seed == seed:
                logits = by_loop(other, seed, one.tokens, products)[0][one.place].tolist()
                values.append(logits[5] - math.fsum(logits[:5]) / 5)
        return math.fsum(values) / len(values)

    for seed in range(2):
        left, values, right = np.linalg.svd(whole[seed], full_matrices=False)
        assert shares.shape == (2, len(values))
        for place, value in enumerate(values):
            component = value * np.outer(left[:, place], right[place])
            up, down = (margin(seed, whole[seed] + sign * h * component) for sign in (1, -1))
            # Central difference: third derivatives of order ten times h², and roundings of 1e-15 over h.
            assert float(shares[seed, place]) == pytest.approx((up - down) / (2 * h), abs=2e-8)
    assert float(shares.abs().max()) > 1e-4


@settings(max_examples=25)
@given(KEYS, st.sampled_from(["linear", "relu"]))
def test_what_the_last_matrix_adds_is_shared_out_exactly(key: int, last: str) -> None:
    """The margin is linear in it: all shares together are the margin less that of the model without it."""
    model, asked, _ = model_and_logits(key, Architecture(6, 10, 4, ("relu", last)))
    asks = asked.places.valid.any(-1).any(-1).numpy()  # a seed without a scored place has no margin
    known = Spectrum(matrix(model, "feed_forward_out", 1))
    shares = probes.component_shares(model, asked, PROBLEM, "feed_forward_out", 1, known)
    without = probes.noise_margin(zeroed(model, "feed_forward_out", 1), asked, PROBLEM)
    expected = probes.noise_margin(model, asked, PROBLEM) - without
    close(shares.sum(-1).numpy()[asks], expected.numpy()[asks])
    for place in range(known.rank):
        less = with_matrix(model, "feed_forward_out", 1, known.drop([place]))
        change = probes.noise_margin(model, asked, PROBLEM) - probes.noise_margin(less, asked, PROBLEM)
        close(shares[:, place].numpy()[asks], change.numpy()[asks])
    fresh = probes.component_shares(model, asked, PROBLEM, "feed_forward_out", 1)
    assert torch.equal(fresh, shares)


def test_a_place_without_a_weight_is_told() -> None:
    model, asked, _ = model_and_logits(0, Architecture(6, 10, 4, ("none", "linear")))
    answer = r"^place is 'feed_forward_out 0'; block 0 has no feed-forward\.$"
    with pytest.raises(ValueError, match=answer):
        probes.component_shares(model, asked, PROBLEM, "feed_forward_out", 0)


def test_seeds_are_read_one_by_one() -> None:
    """Stacked seeds have other rectangles of scored places than each alone, and equal readings."""
    together = evaluated(3, 3, 20)
    model = drawn(ARCHITECTURE, (0, 1, 2))
    for seed in range(3):
        alone = probes.evaluation(PROBLEM, 20, generators(3, 3)[seed : seed + 1], "cpu")
        one = model.with_weights({name: weight[seed : seed + 1] for name, weight in model.weights.items()})
        pairs = []
        for few, asked in ((model, together), (one, alone)):
            trace = few.trace(asked.contexts, asked.places.at)
            pairs.append(
                {
                    **probes.answers(trace.logits, asked, PROBLEM),
                    **probes.attention_shares(trace.attention, asked, PROBLEM),
                    **probes.feed_forward_margins(few, PROBLEM),
                    **probes.memories(few, PROBLEM),
                    "table": probes.noise_table(trace.logits, asked, PROBLEM),
                    "shares": probes.component_shares(few, asked, PROBLEM, "value", 0).numpy(),
                }
            )
        for name, values in pairs[1].items():
            np.testing.assert_allclose(pairs[0][name][seed], values[0], rtol=0, atol=ROUNDING, err_msg=name)
