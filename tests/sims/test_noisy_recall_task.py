"""The sampler against full enumeration and the chain's own tables, and the loss against a plain loop.

Every statistical test fixes its seed, and has the number of such tests in the file in its false-alarm rate, 1e-6 together.
"""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from sims.statistics import z_threshold
from sims.tasks.noisy_recall import (
    Batch,
    Sampler,
    alias_tables,
    last_token_loss,
    scored_loss,
    scored_places,
)
from tests.enumeration import sequences
from tests.strategies import markov_chains, noisy_recalls
from theory.problems import MarkovChain, NoisyRecall

FALSE_ALARM = 1e-6 / 40  # fewer than 40 comparisons of counts in this file


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check_counts(counts: np.ndarray, expected: np.ndarray, groups: int = 1, least: float = 25.0) -> None:
    """Pearson's χ² of counts whose expectation is known, with `groups` known sums; rare cells of a row are joined.

    Rows are groups of cells that are pooled apart. Cells expected to be empty must be.
    """
    assert np.all(counts[expected == 0] == 0)
    statistic, freedom = 0.0, -groups
    for row, exact in zip(np.atleast_2d(counts), np.atleast_2d(expected), strict=True):
        common = exact >= least
        found, wanted = [*row[common], row[~common].sum()], [*exact[common], exact[~common].sum()]
        if wanted[-1] < least:  # join what is rare with the rarest of the others
            place = int(np.argmin(wanted[:-1]))
            found[place], wanted[place] = found[place] + found[-1], wanted[place] + wanted[-1]
            found, wanted = found[:-1], wanted[:-1]
        statistic += sum((one - other) ** 2 / other for one, other in zip(found, wanted, strict=True))
        freedom += len(wanted)
    threshold = special.chdtri(freedom, FALSE_ALARM) if freedom else 1e-9
    assert statistic <= threshold, (
        f"χ² {statistic:.1f}, {freedom} degrees of freedom, threshold {threshold:.1f}"
    )


TINY = {
    "theory": NoisyRecall.theory_version(3, 3, 0.3),
    "theory, longer": NoisyRecall.theory_version(3, 5, 0.6, MarkovChain.zipf_dirichlet(3, seed=1), trigger=1),
    "theory, no noise": NoisyRecall.theory_version(4, 4, 0.0, MarkovChain.zipf_dirichlet(4)),
    "experiment": NoisyRecall.experiment_version(MarkovChain.uniform(3), 4, 0.4, 2),
    "experiment, zeros": NoisyRecall.experiment_version(
        MarkovChain(np.array([0.5, 0.25, 0.25]), np.array([[0.5, 0.5, 0], [0, 0.2, 0.8], [1.0, 0, 0]])),
        5,
        0.25,
        0,
        (2,),
    ),
    "two triggers": NoisyRecall.experiment_version(MarkovChain.zipf_dirichlet(3, seed=3), 4, 0.3, 1, 2),
    "two triggers, few targets": NoisyRecall(
        MarkovChain.zipf_dirichlet(4, 0.5, 1.0), 3, 0.55, (3, 1), 2, (0, 3), "repeated"
    ),
}


@pytest.mark.parametrize("name", TINY)
def test_sequences_and_targets_have_their_probabilities(name: str) -> None:
    """Every (targets, sequence) cell against full enumeration; seed 11."""
    problem, size = TINY[name], 400_000
    exact = {(*targets, *sequence): p for targets, sequence, p in sequences(problem)}
    assert sum(exact.values()) == pytest.approx(1, abs=1e-12)
    batch = Sampler(problem).draw(size, source(11))
    rows = torch.cat([batch.targets, batch.sequences], dim=1).numpy()
    weights = problem.vocabulary_size ** np.arange(rows.shape[1])
    expected = np.zeros(problem.vocabulary_size ** rows.shape[1])
    for cell, p in exact.items():
        expected[np.dot(cell, weights)] += size * p
    check_counts(np.bincount(rows @ weights, minlength=len(expected)), expected)


@given(problem=noisy_recalls(), size=st.integers(1, 20), seed=st.integers(0, 99))
def test_every_sequence_is_possible_and_scored_where_the_definition_says(
    problem: NoisyRecall, size: int, seed: int
) -> None:
    batch = Sampler(problem).draw(size, source(seed))
    length = problem.context_length
    for tensor, shape in (
        (batch.sequences, (size, length + 1)),
        (batch.targets, (size, len(problem.triggers))),
        (batch.contexts, (size, length)),
        (batch.labels, (size, length)),
    ):
        assert tensor.dtype == torch.int64
        assert tensor.shape == shape
    assert batch.scored.dtype == torch.bool
    assert batch.scored.shape == (size, length)
    assert torch.equal(batch.contexts[:, 1:], batch.labels[:, :-1])
    possible = {(*targets, *sequence) for targets, sequence, p in sequences(problem) if p}
    for sequence, targets, scored in zip(*(one.tolist() for one in batch), strict=True):
        assert (*targets, *sequence) in possible
        for place in range(length):
            if problem.scored == "last":
                assert scored[place] == (place == length - 1)
            else:
                token = sequence[place]
                assert scored[place] == (token in problem.triggers and token in sequence[:place])


LARGE = {
    "shakespeare": (MarkovChain.tiny_shakespeare(), 2, 1),
    "shakespeare, five triggers": (MarkovChain.tiny_shakespeare(), 2, 5),
    "zipf": (MarkovChain.zipf_dirichlet(30), 7, 2),
    "uniform": (MarkovChain.uniform(20), 19, 1),
}


@pytest.mark.parametrize("name", LARGE)
def test_transitions_of_large_chains(name: str) -> None:
    """All rows but the triggers' in one χ², given how often each token was left; then the first token; seed 5."""
    chain, noise_token, count = LARGE[name]
    problem = NoisyRecall.experiment_version(chain, 256, 0.4, noise_token, count)
    sampled = Sampler(problem).draw(4_000, source(5)).sequences.numpy()
    pairs = np.zeros((chain.n_tokens, chain.n_tokens))
    np.add.at(pairs, (sampled[:, :-1], sampled[:, 1:]), 1)
    kept = [row for row in range(chain.n_tokens) if row not in problem.triggers and pairs[row].sum() >= 100]
    assert len(kept) >= chain.n_tokens - count - 12  # some letters are rare
    expected = pairs.sum(1, keepdims=True) * chain.transition
    check_counts(pairs[kept], expected[kept], groups=len(kept))
    first = np.bincount(sampled[:, 0], minlength=chain.n_tokens)
    check_counts(first, len(sampled) * chain.initial)


@pytest.mark.parametrize("name", LARGE)
def test_a_trigger_is_followed_by_its_target_or_the_noise_token(name: str) -> None:
    """Always; by the target of its own sequence; and by it as often as the noise level says; seed 6."""
    chain, noise_token, count = LARGE[name]
    problem = NoisyRecall.experiment_version(chain, 200, 0.4, noise_token, count)
    batch = Sampler(problem).draw(2_000, source(6))
    for place, trigger in enumerate(problem.triggers):
        here = batch.contexts == trigger
        targets = batch.targets[:, place, None].expand_as(here)[here]
        answers = batch.labels[here]
        assert torch.all((answers == targets) | (answers == noise_token))
        told = targets != noise_token
        number, noisy = int(told.sum()), int((answers[told] == noise_token).sum())
        z = (noisy - 0.4 * number) / math.sqrt(number * 0.24)
        assert number > 1_000
        assert abs(z) <= z_threshold(5, FALSE_ALARM), (z, number)


@pytest.mark.parametrize("level", [0.2, 0.7])
def test_noise_is_drawn_anew_at_each_occurrence(level: float) -> None:
    """The answers to a sequence's first three occurrences of the trigger, noise or not: all eight cells; seed 8.

    The chain is uniform and no target is the trigger, so that an answer does not change how many occurrences follow.
    """
    base = NoisyRecall.theory_version(6, 60, level)
    problem = dataclasses.replace(base, scored="repeated")
    batch = Sampler(problem).draw(100_000, source(8))
    here = batch.contexts == problem.trigger
    order = here.cumsum(1)
    whole = order[:, -1] >= 3
    cells = torch.zeros(int(whole.sum()), dtype=torch.int64)
    for occurrence in (1, 2, 3):
        answer = batch.labels[whole][here[whole] & (order[whole] == occurrence)]
        cells = 2 * cells + (answer == problem.noise_token)
    exact = [math.prod(one) for one in itertools.product((1 - level, level), repeat=3)]
    check_counts(np.bincount(cells, minlength=8), len(cells) * np.array(exact))


def test_targets_are_uniform_and_independent_of_the_noise() -> None:
    """All (target, noise or not) cells of the last answer; seed 9."""
    problem, size = NoisyRecall.theory_version(9, 8, 0.35), 100_000
    batch = Sampler(problem).draw(size, source(9))
    noisy = batch.sequences[:, -1] == problem.noise_token
    counts = np.bincount(batch.targets[:, 0] * 2 + noisy, minlength=18)
    exact = np.kron(np.isin(np.arange(9), problem.targets) / 8, [0.65, 0.35])
    check_counts(counts, size * exact)


def test_targets_of_several_triggers_are_independent() -> None:
    problem, size = NoisyRecall.experiment_version(MarkovChain.uniform(4), 3, 0.5, 3, 3), 100_000
    targets = Sampler(problem).draw(size, source(10)).targets
    counts = np.bincount(targets @ torch.tensor([16, 4, 1]), minlength=64)
    check_counts(counts, np.full(64, size / 64))


def test_batches_and_sequences_of_a_batch_are_independent() -> None:
    """First tokens of a sequence, of its neighbour, and of the same place in the next batch: all cells; seed 12."""
    chain = MarkovChain.zipf_dirichlet(5)
    sampler, generator = Sampler(NoisyRecall.experiment_version(chain, 3, 0.5, 4)), source(12)
    one, two = (sampler.draw(40_000, generator).sequences[:, 0] for _ in range(2))
    cells = 25 * one[::2] + 5 * one[1::2] + two[::2]
    exact = np.einsum("i,j,k->ijk", *[chain.initial] * 3).ravel()
    check_counts(np.bincount(cells, minlength=125), 20_000 * exact)


@given(problem=noisy_recalls(), seed=st.integers(0, 99))
def test_the_sampler_draws_from_its_generator_alone(problem: NoisyRecall, seed: int) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    generator = source(seed)
    first, second = Sampler(problem).draw(64, generator), Sampler(problem).draw(64, generator)
    sampler, generator = Sampler(problem), source(seed)
    for expected in (first, second):  # a sampler keeps nothing of an earlier draw
        again = sampler.draw(64, generator)
        assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)
    if len(problem.targets) > 1:  # otherwise all may be certain
        assert not torch.equal(first.targets, second.targets)


@given(chain=markov_chains(1, 12))
def test_alias_tables_give_back_the_probabilities(chain: MarkovChain) -> None:
    rows = np.concatenate([chain.initial[None], chain.transition])
    limits, others = alias_tables(rows)
    assert np.all((limits >= 0) & (limits <= 1))
    size = chain.n_tokens
    again = limits / size
    for row, column in itertools.product(range(size + 1), range(size)):
        again[row, others[row, column]] += (1 - limits[row, column]) / size
    # Each of `size` steps rounds a number of order 1, or of order `size` for a token that has nearly all.
    np.testing.assert_allclose(again, rows, rtol=0, atol=size * 2.3e-16)
    assert not again[rows == 0].any()


@given(problem=noisy_recalls())
def test_the_integer_tables_are_the_problem(problem: NoisyRecall) -> None:
    """What each fraction of each column leads to, counted in the sampler's own numbers."""
    sampler, size = Sampler(problem), problem.vocabulary_size
    width = size + len(problem.triggers)
    exact = np.zeros((size, width))
    for row in range(size):
        if row in problem.triggers:
            exact[row, problem.noise_token] = problem.noise_level
            exact[row, size + problem.triggers.index(row)] = 1 - problem.noise_level
        else:
            exact[row, :size] = problem.chain.transition[row]
    minuends, outcomes = (table.numpy() for table in sampler._next)
    found = np.zeros_like(exact)
    for row, column in itertools.product(range(size), range(width)):
        place = column * size + row
        limit = int(minuends[place]) - ((2 * place + 1 + column) << 32) + 1
        for fraction in (0, limit - 1, limit, 2**32 - 1):
            if not 0 <= fraction < 2**32:
                continue
            choice = int(minuends[place]) - ((column << 32) + fraction) >> 32
            assert choice == 2 * place + (fraction < limit)
        found[row, outcomes[2 * place + 1]] += limit / 2**32 / width
        found[row, outcomes[2 * place]] += (1 - limit / 2**32) / width
    # A limit is rounded to half of 2⁻³², and a token is the sum of at most `width` columns of weight 1/width.
    np.testing.assert_allclose(found, exact, rtol=0, atol=2.0**-33 + 1e-15)
    assert not found[exact == 0].any()


def test_bad_arguments_are_told() -> None:
    sampler = Sampler(TINY["theory"])
    with pytest.raises(ValueError, match="batch_size is 0; it must be at least 1"):
        sampler.draw(0, source(0))
    sampler.device = torch.device("meta")
    with pytest.raises(ValueError, match="generator is on cpu; it must be on the sampler's device, meta"):
        sampler.draw(1, source(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_problem() -> None:
    problem, size = TINY["two triggers"], 400_000
    batch = Sampler(problem, "cuda").draw(size, torch.Generator("cuda").manual_seed(13))
    assert batch.sequences.is_cuda
    weights = 3 ** torch.arange(7, device="cuda")
    cells = (torch.cat([batch.targets, batch.sequences], dim=1) * weights).sum(1)
    expected = np.zeros(3**7)
    for targets, sequence, p in sequences(problem):
        expected[np.dot((*targets, *sequence), weights.cpu().numpy())] += size * p
    check_counts(np.bincount(cells.cpu(), minlength=3**7), expected)


def test_a_batch_can_be_trained_on() -> None:
    """Labels may be kept for a backward pass, which those drawn in inference mode may not."""
    batch: Batch = Sampler(TINY["theory"]).draw(4, source(0))
    logits = torch.zeros(1, 4, 4, requires_grad=True)
    last_token_loss(logits, batch.labels[None, :, -1]).backward()
    assert logits.grad is not None
    assert not batch.sequences.is_inference()


@given(seeds=st.integers(1, 3), size=st.integers(1, 6), vocabulary=st.integers(1, 7), key=st.integers(0, 99))
def test_the_loss_is_each_seeds_mean_summed(seeds: int, size: int, vocabulary: int, key: int) -> None:
    generator = source(key)
    logits = 3 * torch.randn(seeds, size, vocabulary, generator=generator, dtype=torch.float64)
    labels = torch.randint(vocabulary, (seeds, size), generator=generator)
    expected = 0.0
    for seed, place in itertools.product(range(seeds), range(size)):
        row = [float(one) for one in logits[seed, place]]
        normaliser = math.log(math.fsum(math.exp(one) for one in row))
        expected += (normaliser - row[int(labels[seed, place])]) / size
    # float64: some tens of roundings of 1.1e-16 on terms of order 10.
    assert float(last_token_loss(logits, labels)) == pytest.approx(expected, rel=1e-12, abs=1e-13)


def marks(*shape: int, key: int, share: float) -> torch.Tensor:
    """True with probability `share`, independently."""
    return torch.rand(shape, generator=source(key)) < share


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 7)),
    key=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_scored_places_are_the_scored_positions_in_order(
    shape: tuple[int, int, int], key: int, share: float
) -> None:
    """With and without seeds in front; rows without any, and batches without any."""
    scored = marks(*shape, key=key, share=share)
    values = torch.randint(50, shape, generator=source(key + 1))
    at, valid = places = scored_places(scored)
    most = max(sum(row) for one in scored.tolist() for row in one)
    assert at.shape == valid.shape == (*shape[:2], most)
    assert at.dtype == torch.int64
    assert valid.dtype == torch.bool
    chosen = places.of(values)
    for seed, row in itertools.product(range(shape[0]), range(shape[1])):
        found = [place for place in range(shape[2]) if scored[seed, row, place]]
        filled = [0] * (most - len(found))
        assert at[seed, row].tolist() == found + filled
        assert valid[seed, row].tolist() == [True] * len(found) + [False] * len(filled)
        assert chosen[seed, row].tolist() == [int(values[seed, row, place]) for place in found + filled]
    apart = scored_places(scored[0])
    width = apart.at.shape[-1]
    assert torch.equal(apart.at, at[0, :, :width])
    assert torch.equal(apart.valid, valid[0, :, :width])
    assert not valid[0, :, width:].any()


def test_scored_places_keep_their_order_in_long_sequences() -> None:
    """From 17 positions on, torch sorts by another way, which keeps the order only when asked to."""
    scored = marks(3, 60, key=1, share=0.5)
    at, valid = scored_places(scored)
    for row in range(3):
        assert at[row, valid[row]].tolist() == [place for place in range(60) if scored[row, place]]


@given(problem=noisy_recalls(), size=st.integers(1, 9), seed=st.integers(0, 99))
def test_scored_places_of_a_batch_have_its_labels(problem: NoisyRecall, size: int, seed: int) -> None:
    batch = Sampler(problem).draw(size, source(seed))
    places = scored_places(batch.scored)
    assert int(places.valid.sum()) == int(batch.scored.sum())
    assert torch.equal(places.of(batch.labels)[places.valid], batch.labels[batch.scored])


@given(
    seeds=st.integers(1, 3),
    size=st.integers(1, 4),
    length=st.integers(1, 5),
    vocabulary=st.integers(1, 6),
    key=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
)
def test_the_scored_loss_is_each_seeds_mean_over_its_scored_positions(
    seeds: int, size: int, length: int, vocabulary: int, key: int, share: float
) -> None:
    """Every scored position weighs the same, whichever its row; a seed without any counts 0, and gives no gradient."""
    generator = source(key)
    logits = 3 * torch.randn(seeds, size, length, vocabulary, generator=generator, dtype=torch.float64)
    labels = torch.randint(vocabulary, (seeds, size, length), generator=generator)
    scored = marks(seeds, size, length, key=key, share=share)
    expected, counted = 0.0, []
    for seed in range(seeds):
        losses = []
        for row, place in itertools.product(range(size), range(length)):
            if scored[seed, row, place]:
                entries = [float(one) for one in logits[seed, row, place]]
                normaliser = math.log(math.fsum(math.exp(one) for one in entries))
                losses.append(normaliser - entries[int(labels[seed, row, place])])
        expected += math.fsum(losses) / len(losses) if losses else 0.0
        counted.append(bool(losses))
    logits.requires_grad_()
    places = scored_places(scored)
    rows = places.at[..., None].expand(-1, -1, -1, vocabulary)
    for loss in (
        scored_loss(logits.gather(2, rows), places.of(labels), places.valid),
        scored_loss(logits, labels, scored),
    ):
        # float64: some tens of roundings of 1.1e-16 on terms of order 10.
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-12, abs=1e-13)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert not gradient[~scored].any()
        if vocabulary > 1:
            assert gradient.flatten(1).any(1).tolist() == counted


def test_the_scored_loss_of_last_tokens_is_the_last_token_loss() -> None:
    logits = torch.randn(2, 5, 7, generator=source(1), dtype=torch.float64)
    labels = torch.randint(7, (2, 5), generator=source(2))
    everywhere = torch.ones(2, 5, 1, dtype=torch.bool)
    found = scored_loss(logits[:, :, None], labels[..., None], everywhere)
    # The same ten terms of order 1 summed in another order.
    torch.testing.assert_close(found, last_token_loss(logits, labels), rtol=0, atol=1e-14)


def test_the_fillings_logits_and_labels_do_not_count() -> None:
    logits = torch.randn(1, 2, 2, 4, generator=source(3), dtype=torch.float64)
    labels, valid = torch.tensor([[[1, 2], [3, 0]]]), torch.tensor([[[True, True], [True, False]]])
    before = scored_loss(logits, labels, valid)
    logits[0, 1, 1], labels[0, 1, 1] = 1e3, 3
    assert torch.equal(scored_loss(logits, labels, valid), before)
