"""The sampler against the problem's probabilities, and the losses against plain loops and full enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.statistics import z_threshold
from sims.tasks.associative_memory import (
    full_batch_loss,
    label_probabilities,
    minibatch_loss,
    sample,
)
from theory.problems import AssociativeMemory

SIZES = st.integers(1, 9)
LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.7, 0.999])


def drawn_logits(seeds: int, n: int, key: int) -> torch.Tensor:
    return 2 * torch.randn(seeds, n + 1, n, generator=torch.Generator().manual_seed(key))


def loop_loss(logits: torch.Tensor, labels: np.ndarray) -> float:
    """Σ over keys and labels of p(key) p(label | key) × −ln softmax, in float64, with nothing vectorised."""
    classes, n = logits.shape
    total = 0.0
    for key in range(n):
        column = [float(logits[label, key]) for label in range(classes)]
        normaliser = math.log(math.fsum(math.exp(one) for one in column))
        total += math.fsum(labels[label, key] * (normaliser - column[label]) for label in range(classes)) / n
    return total


@pytest.mark.parametrize(
    ("n", "level", "seed"), [(1, 0.0, 1), (1, 0.4, 2), (2, 0.7, 3), (5, 0.3, 4), (5, 0.0, 5)]
)
def test_sample_has_the_frequencies_of_the_problem(n: int, level: float, seed: int) -> None:
    """Every (key, label) cell, at a false-alarm rate of 1e-6 for all cells of the five problems together."""
    size = 40_000
    keys, labels = sample(AssociativeMemory(n, level), size, torch.Generator().manual_seed(seed))
    assert keys.dtype == labels.dtype == torch.int64
    assert keys.shape == labels.shape == (size,)
    counts = np.zeros((n + 1, n))
    np.add.at(counts, (labels.numpy(), keys.numpy()), 1)
    exact = np.zeros((n + 1, n))
    exact[np.arange(n), np.arange(n)] = (1 - level) / n
    exact[n] = level / n
    assert np.all(counts[exact == 0] == 0)
    assert np.all(counts[exact == 1] == size)
    open_cells = (exact > 0) & (exact < 1)
    p = exact[open_cells]
    z = np.abs(counts[open_cells] - size * p) / np.sqrt(size * p * (1 - p))
    threshold = z_threshold(21, 1e-6)  # 0 + 2 + 4 + 10 + 5 cells that are neither empty nor certain
    assert np.all(z <= threshold), f"worst z {z.max():.2f}, threshold {threshold:.2f}, n {size}, seed {seed}"


def test_the_sampler_draws_from_its_generator_alone() -> None:
    problem = AssociativeMemory(6, 0.4)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = sample(problem, 50, torch.Generator().manual_seed(9))
    again = sample(problem, 50, torch.Generator().manual_seed(9))
    other = sample(problem, 50, torch.Generator().manual_seed(10))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.random.get_rng_state(), before)


@given(n=SIZES, level=LEVELS)
def test_the_label_table_is_the_problem(n: int, level: float) -> None:
    table = label_probabilities(AssociativeMemory(n, level))
    assert table.shape == (n + 1, n)
    # Two roundings of float32, 1.2e-7 each at most.
    np.testing.assert_allclose(table.double().sum(0), 1, rtol=0, atol=2.4e-7)
    for label, key in itertools.product(range(n + 1), range(n)):
        exact = level if label == n else (1 - level if label == key else 0.0)
        assert float(table[label, key]) == np.float32(exact)


@given(n=SIZES, level=LEVELS, seeds=st.integers(1, 3), key=st.integers(0, 99))
def test_full_batch_loss_is_the_expectation_summed_over_seeds(
    n: int, level: float, seeds: int, key: int
) -> None:
    logits = drawn_logits(seeds, n, key).double()
    labels = label_probabilities(AssociativeMemory(n, level)).double()
    expected = sum(loop_loss(one, labels.numpy()) for one in logits)
    # float64 throughout: some hundred roundings of 1.1e-16 on terms of order 10.
    assert float(full_batch_loss(logits, labels)) == pytest.approx(expected, rel=1e-12)


@given(n=SIZES, size=st.integers(1, 7), seeds=st.integers(1, 3), key=st.integers(0, 99))
def test_minibatch_loss_reads_each_seeds_own_samples(n: int, size: int, seeds: int, key: int) -> None:
    logits = drawn_logits(seeds, n, key).double()
    source = torch.Generator().manual_seed(key)
    keys = torch.randint(n, (seeds, size), generator=source)
    labels = torch.randint(n + 1, (seeds, size), generator=source)
    expected = 0.0
    for seed, place in itertools.product(range(seeds), range(size)):
        column = logits[seed, :, keys[seed, place]]
        expected += float(torch.logsumexp(column, 0) - column[labels[seed, place]]) / size
    assert float(minibatch_loss(logits, keys, labels)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "level", "size"), [(1, 0.3, 3), (2, 0.7, 2), (3, 0.2, 2)])
def test_the_minibatch_gradient_is_unbiased(n: int, level: float, size: int) -> None:
    """Loss and gradient averaged over all possible batches, each weighted by its probability, are the full batch's."""
    logits = drawn_logits(1, n, 3).double().requires_grad_()
    exact = label_probabilities(AssociativeMemory(n, level)).double()
    single = {
        (key, label): float(exact[label, key]) / n
        for key, label in itertools.product(range(n), range(n + 1))
        if exact[label, key]
    }
    mean, total = torch.zeros((), dtype=torch.float64), 0.0
    for batch in itertools.product(single, repeat=size):
        chance = math.prod(single[one] for one in batch)
        keys, labels = (torch.tensor([side]) for side in zip(*batch, strict=True))
        mean = mean + chance * minibatch_loss(logits, keys, labels)
        total += chance
    assert total == pytest.approx(1, abs=3e-7)  # the table is float32
    full = full_batch_loss(logits, exact)
    assert float(mean.detach()) == pytest.approx(float(full.detach()), rel=1e-6)
    (of_mean,) = torch.autograd.grad(mean, logits)
    (of_full,) = torch.autograd.grad(full, logits)
    torch.testing.assert_close(of_mean, of_full, rtol=0, atol=1e-6)
