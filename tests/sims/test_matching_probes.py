"""Probes of a decoder that follows chains of pairs: against plain loops, on attention and kernels made by hand, and at limits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sims.models.decoder import DecoderArchitecture, DecoderTrace
from sims.probes import matching as probes
from sims.probes.matching import Sentences
from sims.streams import torch_generator
from sims.tasks.pair_chains import PairChains, draw
from tests.sims.small_decoders import architectures, by_loop, close, drawn

ROUNDING = 1e-12
"""float64, sums of some hundred terms of order one."""
KEYS = st.integers(0, 9999)
PROBLEMS = [
    PairChains(4, 2, 1, vocabulary_size=8),
    PairChains(
        5, 3, 1, 2, 14, 1, True, 5, 2, (0, 1)
    ),  # steps beyond the chain's end for sentences of one step
    PairChains(3, 1, 2, 0, 9, 2, first_token=2),
]
PROBLEM = pytest.mark.parametrize("problem", PROBLEMS, ids=["plain", "mixed", "noise pairs"])


def generators(seeds: int, key: int) -> list[torch.Generator]:
    return [torch_generator("test", "probes", key + seed) for seed in range(seeds)]


def random(key: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(key), dtype=torch.float64)


def attentions(key: int, seeds: int, batch: int, heads: int, length: int, layers: int) -> DecoderTrace:
    """Random attention of every layer; without logits."""
    found = [random(key + layer, seeds, batch, heads, length, length).softmax(-1) for layer in range(layers)]
    return DecoderTrace(torch.zeros(0), tuple(found))


@PROBLEM
@settings(max_examples=15)
@given(key=KEYS)
def test_what_is_asked_against_the_draws(problem: PairChains, key: int) -> None:
    asked = probes.ask(problem, 6, generators(2, key))
    assert asked.slots.shape == (2, 6, problem.n_steps)
    for seed, generator in enumerate(generators(2, key)):
        expected = draw(problem, 6, generator)
        for found, one in (
            (asked.tokens, expected.tokens),
            (asked.labels, expected.labels),
            (asked.n_steps, expected.n_steps),
        ):
            assert torch.equal(found[seed], one)
        for row, chain, start, slots in zip(
            expected.tokens.tolist(),
            expected.chain.tolist(),
            expected.start.tolist(),
            asked.slots[seed].tolist(),
            strict=True,
        ):
            for step, slot in enumerate(slots):
                left = min(start + step, problem.n_pairs - 1)  # beyond the chain: its last pair
                assert row[slot - 1 : slot + 1] == chain[left : left + 2]
                assert slot % 2 == 1


@PROBLEM
def test_the_slots_of_a_sentence_lead_from_its_start_to_its_label(problem: PairChains) -> None:
    asked = probes.ask(problem, 50, generators(2, 0))
    for seed in range(2):
        for row, label, steps, slots in zip(
            asked.tokens[seed].tolist(),
            asked.labels[seed].tolist(),
            asked.n_steps[seed].tolist(),
            asked.slots[seed].tolist(),
            strict=True,
        ):
            token = row[-1]
            for slot in slots[:steps]:
                assert row[slot - 1] == token
                token = row[slot]
            assert token == label


@PROBLEM
def test_correct_answers_against_a_loop(problem: PairChains) -> None:
    architecture = DecoderArchitecture(problem.n_token_ids, problem.sentence_length, 4, 2, 2, 4, 5)
    model, asked = drawn(architecture, (0, 1)), probes.ask(problem, 25, generators(2, 1))
    found = probes.correct(model, asked)
    assert found.shape == (2, 25)
    expected = [
        [
            int(by_loop(model, seed, row)[0][-1].argmax()) == label
            for row, label in zip(asked.tokens[seed].tolist(), asked.labels[seed].tolist(), strict=True)
        ]
        for seed in range(2)
    ]
    assert found.tolist() == expected
    assert 0 < int(found.sum()) < found.numel()


def test_a_model_that_says_its_last_token_is_correct_where_that_is_the_label() -> None:
    """Zero attention, one-hot embeddings and the same unembedding: the most likely token is the one that stands last."""
    architecture = DecoderArchitecture(7, 5, 7, 1, 1, 4, 0, "none")
    model = drawn(architecture)
    eye = torch.eye(7, dtype=torch.float64)[None]
    model = model.with_weights(
        {
            "embedding": eye,
            "unembedding": eye,
            "positions": torch.zeros(1, 5, 7, dtype=torch.float64),
            "value.0": torch.zeros(1, 4, 7, dtype=torch.float64),
        }
    )
    asked = probes.ask(PairChains(2, 1, 1, vocabulary_size=7), 20, generators(1, 3))
    assert not probes.correct(model, asked).any()
    assert probes.correct(model, asked._replace(labels=asked.tokens[..., -1])).all()


def edges_by_loop(trace: DecoderTrace, asked: Sentences) -> np.ndarray:
    seeds, batch, length = asked.tokens.shape
    n_pairs, n_steps = (length - 1) // 2, asked.slots.shape[-1]
    found = np.full((seeds, len(trace.attention)), math.nan)
    for seed in range(seeds):
        for layer, attention in enumerate(trace.attention):
            means = []
            for head in range(attention.shape[2]):
                values = []
                for row in range(batch):
                    look = attention[seed, row, head].tolist()
                    if layer == 0:
                        values += [look[2 * place + 1][2 * place] for place in range(n_pairs)]
                    elif layer <= n_steps and int(asked.n_steps[seed, row]) >= layer:
                        values.append(look[-1][int(asked.slots[seed, row, layer - 1])])
                if values:
                    means.append(math.fsum(values) / len(values))
            if means:
                found[seed, layer] = max(means)
    return found


@PROBLEM
@settings(max_examples=15)
@given(key=KEYS, heads=st.integers(1, 3), layers=st.integers(1, 5), batch=st.integers(1, 8))
def test_edges_against_a_loop(problem: PairChains, key: int, heads: int, layers: int, batch: int) -> None:
    """Of few sentences too, when perhaps none has all steps; layers beyond the number of steps are not told."""
    asked = probes.ask(problem, batch, generators(2, key))
    trace = attentions(key, 2, batch, heads, problem.sentence_length, layers)
    found = probes.edges(trace, asked)
    assert found.shape == (2, layers)
    np.testing.assert_allclose(found, edges_by_loop(trace, asked), rtol=0, atol=ROUNDING)
    assert bool(found[:, problem.n_steps + 1 :].isnan().all())
    assert problem.mixed or not found[:, : problem.n_steps + 1].isnan().any()


def test_edges_by_hand() -> None:
    """Two sentences of three pairs, two heads. Two steps in the first sentence, one in the second."""
    asked = Sentences(
        torch.zeros(1, 2, 7, dtype=torch.int64),
        torch.zeros(1, 2, dtype=torch.int64),
        torch.tensor([[2, 1]]),
        torch.tensor([[[3, 1], [5, 3]]]),
    )
    first, second, third = (torch.zeros(1, 2, 2, 7, 7) for _ in range(3))
    for right, mass in ((1, 0.3), (3, 0.6), (5, 0.9)):
        first[0, :, 0, right, right - 1] = mass  # a mean of 0.6, and of 0.2 in the other head
        first[0, :, 1, right, right - 1] = 0.2
        first[0, :, :, right - 1, right] = 0.99  # a left token's look at its right one does not count
    second[0, 0, :, -1, 3] = torch.tensor([0.1, 0.5])
    second[0, 1, :, -1, 5] = torch.tensor([0.7, 0.4])
    third[0, 0, :, -1, 1] = torch.tensor([0.25, 0.75])
    third[0, 1, :, -1, 3] = 1.0  # beyond its own number of steps
    trace = DecoderTrace(torch.zeros(0), (first, second, third, third))
    found = probes.edges(trace, asked)
    np.testing.assert_allclose(found, [[0.6, 0.45, 0.75, math.nan]], rtol=1e-6)  # float32
    # Of a pass of the last position alone, the same.
    short = DecoderTrace(torch.zeros(0), (first, second, third[:, :, :, -1:]))
    assert torch.equal(probes.edges(short, asked), found[:, :3])


@given(architectures(), st.booleans())
@settings(max_examples=40)
def test_kernels_against_loops(architecture: DecoderArchitecture, added: bool) -> None:
    """Entry by entry of every pair of buffers: what a unit vector in one and a unit vector in the other add to the first head."""
    model, d = drawn(architecture, (0, 1), added), architecture.width
    size = architecture.attention_width // architecture.n_heads
    shapes = {name: one.numpy() for name, one in model.weights.items()}

    def part(product: str, layer: int, seed: int) -> np.ndarray:
        left, right = (
            shapes[f"{role}.{layer}"][seed]
            for role in (("query", "key") if product == "key_query" else ("attention_output", "value"))
        )
        found = np.zeros((d, d))
        for unit in range(size):
            found += np.outer(left[unit] if product == "key_query" else left[:, unit], right[unit])
        if added:
            share = 1 if product == "key_query" else architecture.n_heads
            found += (
                shapes[f"{product}_factor"][seed, layer] * shapes[f"{product}_added.{layer}"][seed] / share
            )
        return found

    for layer in range(architecture.n_layers):
        buffers = [None, *range(layer)]
        for query in buffers:
            for key in buffers:
                found = probes.kernel(model, layer, query, key)
                for seed in range(2):
                    left, right = (
                        np.eye(d) if one is None else part("value_output", one, seed) for one in (query, key)
                    )
                    scores = part("key_query", layer, seed)
                    expected = [
                        [left[:, row] @ scores @ right[:, column] for column in range(d)] for row in range(d)
                    ]
                    close(found[seed], expected, 1e-10)  # three products of entries of order one
    for layer in range(1, architecture.n_layers):
        expected_kernel = probes.kernel(model, layer, None if layer == 1 else layer - 1, 0)
        assert torch.equal(probes.matching_kernel(model, layer), expected_kernel)


def test_a_kernel_gives_the_scores_between_buffers() -> None:
    """Without norms and with one head, layer 1's score of two positions is a sum over their buffers of the kernels."""
    architecture = DecoderArchitecture(6, 4, 5, 2, 1, 5, 0, "none")
    model = drawn(architecture, (0,), added=True)
    tokens = [3, 1, 4, 1]
    raw = (model.weights["embedding"][0][tokens] + model.weights["positions"][0]).numpy()
    looks = by_loop(model, 0, tokens)[1]
    read = looks[0][0] @ raw  # what layer 0 brought to each position, before its value_output
    scores = np.zeros((4, 4))
    for query, left in ((None, raw), (0, read)):
        for key, right in ((None, raw), (0, read)):
            scores += left @ probes.kernel(model, 1, query, key)[0].numpy() @ right.T
    weights = np.tril(np.exp(scores * probes.scale_in_use(model)))
    np.testing.assert_allclose(
        looks[1][0], weights / weights.sum(1, keepdims=True), rtol=0, atol=1e-10
    )  # exponentials of scores of some ten


@given(key=KEYS, n=st.integers(1, 6), d=st.integers(1, 5), scale=st.floats(-3, 3))
def test_the_matching_score_against_a_loop(key: int, n: int, d: int, scale: float) -> None:
    kernels, rows = random(key, 2, d, d), random(key + 1, 2, n, d)
    found = probes.matching_score(kernels, rows, scale)
    for seed in range(2):
        values = []
        for own in rows[seed].numpy():
            scores = [scale * float(own @ kernels[seed].numpy() @ other) for other in rows[seed].numpy()]
            top = max(scores)
            weights = [math.exp(score - top) for score in scores]
            values.append(
                math.exp(scale * float(own @ kernels[seed].numpy() @ own) - top) / math.fsum(weights)
            )
        close(found[seed], math.fsum(values) / n, 1e-11)  # exponentials of scores up to a hundred


def test_limits_of_the_matching_score() -> None:
    """1 for a large identity, 1/n for no kernel or no scale, 0 for its negative; rows may be turned with the kernel."""
    rows = random(0, 3, 20, 8)
    eye = torch.eye(8, dtype=torch.float64).expand(3, 8, 8)
    units = rows / rows.norm(dim=-1, keepdim=True)
    for kernels, given_rows, scale, expected in (
        (eye, units, 1e6, 1.0),
        (1e6 * eye, units, 1.0, 1.0),
        (eye, rows, 0.0, 1 / 20),
        (0 * eye, rows, 1.0, 1 / 20),
        (-eye, units, 1e6, 0.0),
        (eye, torch.ones_like(rows), 1.0, 1 / 20),  # all rows alike
    ):
        # exp(−1e6 · a thousandth) is zero; the others are rounding.
        close(probes.matching_score(kernels, given_rows, scale), np.full(3, expected), ROUNDING)
    scores = [float(probes.matching_score(eye, units, scale).mean()) for scale in (0.0, 1.0, 4.0, 16.0, 64.0)]
    assert scores == sorted(scores)
    turn = torch.linalg.qr(random(5, 3, 8, 8))[0]
    kernels = random(6, 3, 8, 8)
    close(
        probes.matching_score(turn @ kernels @ turn.mT, rows @ turn.mT, 0.3),
        probes.matching_score(kernels, rows, 0.3),
        ROUNDING,
    )


@given(key=KEYS, d=st.integers(2, 6))
def test_ratio_and_alignment_against_loops(key: int, d: int) -> None:
    kernels = random(key, 2, d, d)
    ratio, cosine = probes.diagonal_ratio(kernels), probes.alignment(kernels)
    assert ratio.shape == cosine.shape == (2,)
    for seed, one in enumerate(kernels.tolist()):
        diagonal = [one[place][place] for place in range(d)]
        others = [one[row][column] for row in range(d) for column in range(d) if row != column]
        root = math.sqrt(math.fsum(value**2 for value in others) / len(others))
        close(ratio[seed], math.fsum(diagonal) / d / root, 1e-11 / root)
        norm = math.sqrt(math.fsum(value**2 for row in one for value in row))
        close(cosine[seed], math.fsum(diagonal) / norm / math.sqrt(d), ROUNDING)


def test_ratio_and_alignment_of_kernels_whose_answer_is_known() -> None:
    eye = torch.eye(6, dtype=torch.float64)
    ones = torch.ones(6, 6, dtype=torch.float64)
    swapped = eye[[1, 0, 3, 2, 5, 4]]
    projector = torch.diag(torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=torch.float64))
    kernels = torch.stack([eye, -3 * eye, ones, swapped, projector, eye + ones])
    inf = math.inf
    # The projector of half the dimensions has a cosine of √(1/2): the ceiling of a kernel of that rank.
    cosines = [1, -1, 1 / math.sqrt(6), 0, math.sqrt(1 / 2), 12 / math.sqrt(6 * (6 * 4 + 30))]
    close(probes.alignment(kernels), cosines, ROUNDING)
    np.testing.assert_allclose(probes.diagonal_ratio(kernels), [inf, -inf, 1, 0, inf, 2], rtol=1e-12, atol=0)
    scaled = random(0, 3, 6, 6)
    for factor in (0.01, 7.0):
        close(probes.alignment(factor * scaled), probes.alignment(scaled), ROUNDING)
        close(probes.diagonal_ratio(factor * scaled), probes.diagonal_ratio(scaled), ROUNDING)


def test_the_ratio_of_a_kernel_that_is_the_identity_but_for_rounding() -> None:
    """In float32 the other entries are of order 1e-8 and must not drown in the diagonal's squares."""
    turn = torch.linalg.qr(random(1, 4, 64, 64))[0].float()
    kernels = turn @ turn.mT
    found, expected = probes.diagonal_ratio(kernels), probes.diagonal_ratio(kernels.double())
    assert bool((found > 1e6).all())
    # Sums of four thousand squares in float32.
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.5])
def test_rows_of_tokens_against_a_loop(exponent: float) -> None:
    """Mean 0 and mean square 1 however small the embedding is; the tokens of the problem alone."""
    problem = PairChains(2, 1, 1, vocabulary_size=5, first_token=3)
    model = drawn(DecoderArchitecture(12, 5, 6, init_exponent=exponent), (0, 1))
    found = probes.token_rows(model, problem)
    assert found.shape == (2, 5, 6)
    for seed in range(2):
        for place in range(5):
            row = model.weights["embedding"][seed, 3 + place].tolist()
            mean = math.fsum(row) / 6
            # 1e-5 is the constant of the model's own norms.
            deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in row) / 6 + 1e-5)
            close(found[seed, place], [(one - mean) / deviation for one in row], 1e-12)


def test_the_scale_in_use_is_that_of_one_head() -> None:
    for heads, width, expected in ((1, 16, 1 / 4), (4, 16, 1 / 2), (2, 18, 1 / 3)):
        model = drawn(DecoderArchitecture(5, 3, 4, 1, heads, width))
        assert probes.scale_in_use(model) == expected


def test_seeds_are_read_one_by_one() -> None:
    problem = PROBLEMS[1]
    architecture = DecoderArchitecture(problem.n_token_ids, problem.sentence_length, 4, 3, 2, 4, 5)
    together, asked = drawn(architecture, (0, 1)), probes.ask(problem, 30, generators(2, 5))
    for seed in range(2):
        alone = drawn(architecture, (seed,))
        one = probes.ask(problem, 30, generators(2, 5)[seed : seed + 1])
        for found, expected in zip(asked, one, strict=True):
            assert torch.equal(found[seed : seed + 1], expected)
        assert torch.equal(probes.correct(together, asked)[seed : seed + 1], probes.correct(alone, one))
        close(
            probes.edges(together.trace(asked.tokens, last=True), asked)[seed],
            probes.edges(alone.trace(one.tokens), one)[0],
        )
        for layer in (1, 2):
            close(probes.matching_kernel(together, layer)[seed], probes.matching_kernel(alone, layer)[0])
