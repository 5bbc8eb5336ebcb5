"""Probes of a memory against plain loops, and what must not change them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.probes.associative_memory import components, entry_classes, predictions

SIZES, SEEDS, KEYS = st.integers(1, 8), st.integers(1, 3), st.integers(0, 10_000)


def drawn(seeds: int, n: int, key: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(key)
    return 2 * torch.randn(seeds, n + 1, n, generator=generator, dtype=torch.float64)


def symmetric(n: int, diagonal: float, off_diagonal: float, noise: float) -> torch.Tensor:
    """Logits with the three values of the theory's state, for one seed."""
    logits = torch.full((1, n + 1, n), off_diagonal, dtype=torch.float64)
    logits[0, range(n), range(n)] = diagonal
    logits[0, n] = noise
    return logits


@given(SEEDS, SIZES, KEYS)
def test_entry_classes_against_loops(seeds: int, n: int, key: int) -> None:
    logits = drawn(seeds, n, key)
    found = entry_classes(logits)
    for seed in range(seeds):
        classes: dict[str, list[float]] = {"diagonal": [], "off_diagonal": [], "noise": []}
        for label, token in itertools.product(range(n + 1), range(n)):
            name = "noise" if label == n else "diagonal" if label == token else "off_diagonal"
            classes[name].append(float(logits[seed, label, token]))
        means = {name: math.fsum(all_) / len(all_) if all_ else 0.0 for name, all_ in classes.items()}
        spread = max(abs(one - means[name]) for name, all_ in classes.items() for one in all_)
        column_sum = math.fsum(itertools.chain(*classes.values())) / n
        for name, expected in {**means, "spread": spread, "column_sum": column_sum}.items():
            assert found[name].shape == (seeds,)
            assert found[name].dtype == np.float64
            # float32 holds the spread (relative 6e-8); the rest is float64.
            assert found[name][seed] == pytest.approx(expected, abs=1e-6 if name == "spread" else 1e-12)


@given(SEEDS, SIZES, KEYS)
def test_predictions_against_loops(seeds: int, n: int, key: int) -> None:
    logits = drawn(seeds, n, key)
    found = predictions(logits)
    for seed in range(seeds):
        sums = dict.fromkeys(("correct", "noise", "other", "accuracy"), 0.0)
        for token in range(n):
            weights = [math.exp(float(one)) for one in logits[seed, :, token]]
            total = math.fsum(weights)
            sums["correct"] += weights[token] / total / n
            sums["noise"] += weights[n] / total / n
            sums["other"] += sum(weights[one] for one in range(n) if one != token) / total / n
            sums["accuracy"] += (max(range(n + 1), key=lambda one: weights[one]) == token) / n
        for name, expected in sums.items():
            assert found[name][seed] == pytest.approx(expected, abs=1e-12)


@given(SEEDS, SIZES, KEYS, st.floats(-1e6, 1e6))
def test_a_shift_of_a_columns_logits_changes_no_prediction(
    seeds: int, n: int, key: int, shift: float
) -> None:
    logits = drawn(seeds, n, key)
    columns = torch.zeros(n, dtype=torch.float64)
    columns[0] = shift
    before, after = predictions(logits), predictions(logits + columns)
    for name, values in before.items():
        # Adding 1e6 rounds a logit by 1.2e-10 at most.
        np.testing.assert_allclose(after[name], values, rtol=0, atol=1e-9)


@given(SEEDS, SIZES, KEYS)
def test_a_permutation_of_the_tokens_changes_nothing(seeds: int, n: int, key: int) -> None:
    logits = drawn(seeds, n, key)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(key))
    moved = logits[:, torch.cat([order, torch.tensor([n])])][:, :, order]
    for probe in (entry_classes, predictions, components):
        before, after = probe(logits), probe(moved)
        for name, values in before.items():
            np.testing.assert_allclose(after[name], values, rtol=0, atol=1e-6 if name == "spread" else 1e-10)


@given(SEEDS, SIZES, KEYS)
def test_seeds_are_read_one_by_one(seeds: int, n: int, key: int) -> None:
    logits = drawn(seeds, n, key)
    for probe in (entry_classes, predictions, components):
        whole = probe(logits)
        for seed in range(seeds):
            for name, value in probe(logits[seed : seed + 1]).items():
                np.testing.assert_allclose(whole[name][seed], value[0], rtol=0, atol=1e-12)


@given(st.integers(2, 9), st.floats(-3, 3), st.floats(-3, 3))
def test_components_of_a_symmetric_memory(n: int, diagonal: float, noise: float) -> None:
    """NumPy's SVD, and by hand: n − 1 values |a − b|, and √(n + 1) |g| on the vector (−1, …, −1, n)/√(n(n + 1))."""
    off_diagonal = -(diagonal + noise) / (n - 1)
    signal, alone = abs(diagonal - off_diagonal), math.sqrt(n + 1) * abs(noise)
    if abs(signal - alone) < 1e-3 * (signal + alone) or min(signal, alone) < 1e-3:
        return  # where they tie, or one is gone, the vectors are not defined
    logits = symmetric(n, diagonal, off_diagonal, noise)
    found = components(logits)
    values = np.linalg.svd(logits[0].numpy(), compute_uv=False)
    assert found["noise_singular_value"][0] == pytest.approx(alone, abs=1e-10)
    assert found["signal_singular_value"][0] == pytest.approx(signal, abs=1e-10)
    assert values[int(found["noise_place"][0])] == pytest.approx(alone, abs=1e-10)
    assert found["noise_place"][0] == (0 if alone > signal else n - 1)


def test_one_token_has_one_component_and_no_wrong_token() -> None:
    logits = torch.tensor([[[0.5], [-1.25]]])
    assert entry_classes(logits)["off_diagonal"].tolist() == [0.0]
    assert entry_classes(logits)["spread"].tolist() == [0.0]
    shares = predictions(logits)
    assert shares["other"][0] == pytest.approx(0, abs=1e-15)
    assert shares["correct"][0] == pytest.approx(1 / (1 + math.exp(-1.75)), abs=1e-15)
    parts = components(logits)
    assert parts["signal_singular_value"].tolist() == [0.0]
    assert parts["noise_singular_value"][0] == pytest.approx(math.hypot(0.5, 1.25), abs=1e-12)
    assert parts["noise_place"].tolist() == [0.0]
