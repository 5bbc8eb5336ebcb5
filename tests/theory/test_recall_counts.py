"""Moments of token counts: against full enumeration of tiny problems; closed forms against the linear algebra at larger ones."""

import numpy as np
import pytest
from hypothesis import given, settings

from tests.enumeration import enumeration, given_target
from tests.strategies import noisy_recalls
from theory.noisy_recall import (
    counts,
    expected_triggers,
    kernel,
    label_probabilities,
    marginals,
    trigger_probability,
    uniform_counts,
)
from theory.noisy_recall.counts import swap_target
from theory.problems import MarkovChain, NoisyRecall

ROUNDING = 1e-12
"""Some hundred probabilities are added up, with counts up to 36 as weights: 100 × 36 × 1e-16, and a factor for luck."""

TINY = {
    "3, 5": NoisyRecall.theory_version(3, 5, 0.3),
    "4, 5": NoisyRecall.theory_version(4, 5, 0.6),
    "3, 6": NoisyRecall.theory_version(3, 6, 0.45, trigger=2),
    "no noise": NoisyRecall.theory_version(3, 5, 0.0),
    "shortest": NoisyRecall.theory_version(4, 3, 0.2),
    "zipf": NoisyRecall.theory_version(3, 6, 0.4, MarkovChain.zipf_dirichlet(3, seed=5), trigger=1),
    "any targets": NoisyRecall(MarkovChain.zipf_dirichlet(4, seed=2), 5, 0.35, (1,), 2, (0, 1, 2), "last"),
}


def tallies(problem: NoisyRecall, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """m (M, V), n (M, V) and the pairs (M, V, V) of sequences (M, T + 1), by comparing tokens one by one."""
    size, length = problem.vocabulary_size, problem.context_length
    previous, current = np.zeros((2, len(tokens), size))
    pairs = np.zeros((len(tokens), size, size))
    for row, sequence in enumerate(tokens):
        for place in range(length):
            current[row, sequence[place]] += 1
            if place < length - 1:
                previous[row, sequence[place]] += 1
                pairs[row, sequence[place], sequence[place + 1]] += 1
    return previous, current, pairs


def check_moments(problem: NoisyRecall) -> None:
    for target in problem.targets:
        tokens, weights = given_target(problem, target)
        m, n, pairs = tallies(problem, tokens)
        found = counts(problem, target)
        expected = {
            "previous": weights @ m,
            "current": weights @ n,
            "previous_second": np.einsum("s,sv,sw->vw", weights, m, m),
            "current_second": np.einsum("s,sv,sw->vw", weights, n, n),
            "cross": np.einsum("s,sv,sw->vw", weights, m, n),
            "pairs": np.einsum("s,svw->vw", weights, pairs),
        }
        assert set(vars(found)) == set(expected)
        for name, exact in expected.items():
            np.testing.assert_allclose(
                getattr(found, name), exact, rtol=0, atol=ROUNDING, err_msg=f"{name}, target {target}"
            )


@pytest.mark.parametrize("name", TINY)
def test_moments_against_enumeration(name: str) -> None:
    check_moments(TINY[name])


@settings(deadline=None, max_examples=25)
@given(problem=noisy_recalls(versions=("theory",)))
def test_moments_of_random_chains_against_enumeration(problem: NoisyRecall) -> None:
    check_moments(problem)


@settings(deadline=None, max_examples=40)
@given(problem=noisy_recalls().filter(lambda problem: len(problem.triggers) == 1))
def test_marginals_and_kernels_of_both_versions(problem: NoisyRecall) -> None:
    """Each position's distribution given the target, and what follows each token, from enumerated sequences."""
    size, length = problem.vocabulary_size, problem.context_length
    # The version that scores the last token writes the trigger over position T: only pairs before it follow the kernel.
    end = length - 2 if problem.scored == "last" else length
    for target in problem.targets:
        tokens, weights = given_target(problem, target)
        exact = np.array(
            [np.bincount(tokens[:, place], weights, size) for place in range(problem.context_length)]
        )
        np.testing.assert_allclose(marginals(problem, target), exact, rtol=0, atol=ROUNDING)
        rows, pairs = kernel(problem, target), np.zeros((size, size))
        for place in range(end):
            np.add.at(pairs, (tokens[:, place], tokens[:, place + 1]), weights)
        np.testing.assert_allclose(pairs, pairs.sum(1, keepdims=True) * rows, rtol=0, atol=ROUNDING)
        np.testing.assert_array_equal(label_probabilities(problem, target), rows[problem.trigger])
        if problem.scored == "last":
            labels = np.bincount(tokens[:, -1], weights, size)
            np.testing.assert_allclose(label_probabilities(problem, target), labels, rtol=0, atol=ROUNDING)


def test_every_sequence_is_enumerated() -> None:
    """The reference itself: probabilities sum to one, and there are as many sequences as can be."""
    for problem in TINY.values():
        assert enumeration(problem).probability.sum() == pytest.approx(1, abs=ROUNDING)
    # T = 3, N = 4: four first tokens; the trigger is followed by two tokens, others by four; two labels; three targets.
    assert len(enumeration(TINY["shortest"]).tokens) == 3 * (2 + 3 * 4) * 2


@pytest.mark.parametrize("n_tokens", [3, 4, 7, 16, 40])
@pytest.mark.parametrize("length", [3, 4, 12, 100])
@pytest.mark.parametrize("level", [0.0, 0.3, 0.95])
def test_closed_forms_against_the_linear_algebra(n_tokens: int, length: int, level: float) -> None:
    problem = NoisyRecall.theory_version(n_tokens, length, level, trigger=n_tokens - 1)
    short, target = uniform_counts(problem), problem.targets[1]
    full = counts(problem, target)
    generic = [token for token in problem.targets if token != target]
    for found, exact in (
        (short.trigger, full.current[problem.trigger]),
        (short.trigger_previous, full.previous[problem.trigger]),
        (short.noise, full.current[problem.noise_token]),
        (short.noise, full.previous[problem.noise_token]),
        (short.target, full.current[target]),
        (short.target, full.previous[target]),
        (short.mean_ordinary, full.current[list(problem.targets)].mean()),
    ):
        # A sum of 100 probabilities up to 1, each with some roundings.
        assert found == pytest.approx(exact, rel=0, abs=1e-12)
    np.testing.assert_allclose(full.current[generic], short.generic, rtol=0, atol=1e-12)
    assert full.current.sum() == pytest.approx(length, rel=1e-13)


@pytest.mark.parametrize("n_tokens", [3, 8, 40])
@pytest.mark.parametrize("level", [0.0, 0.4])
def test_triggers_at_a_position_and_before_it(n_tokens: int, level: float) -> None:
    """p_s and Q_s from the marginals of a long context, at any noise level, as scalars and as arrays."""
    problem = NoisyRecall.theory_version(n_tokens, 60, level)
    exact = marginals(problem, problem.targets[0])[:-1, problem.trigger]
    places = np.arange(1, 60)
    # 60 roundings of probabilities below 1/3.
    np.testing.assert_allclose(trigger_probability(n_tokens, places), exact, rtol=0, atol=1e-14)
    np.testing.assert_allclose(expected_triggers(n_tokens, places), exact.cumsum(), rtol=0, atol=1e-13)
    assert float(trigger_probability(n_tokens, 1)) == pytest.approx(1 / n_tokens, rel=1e-14)
    assert float(trigger_probability(n_tokens, 2)) == pytest.approx((1 - 1 / n_tokens) / n_tokens, rel=1e-14)
    assert float(expected_triggers(n_tokens, 0)) == 0
    assert isinstance(float(expected_triggers(n_tokens, 7)), float)


def test_another_target_changes_places() -> None:
    problem = NoisyRecall.theory_version(5, 7, 0.3, trigger=1)
    old, new = problem.targets[0], problem.targets[2]
    one, other = counts(problem, old), counts(problem, new)
    for name, values in vars(one).items():
        np.testing.assert_allclose(
            swap_target(problem, values, old, new), getattr(other, name), rtol=0, atol=ROUNDING
        )
    assert not np.allclose(one.current, other.current)


def test_other_problems_are_refused_in_a_sentence() -> None:
    repeated = NoisyRecall.experiment_version(MarkovChain.uniform(4), 5, 0.3, 0)
    with pytest.raises(ValueError, match=r"scored is 'repeated'; these counts are for .* the last token\."):
        counts(repeated, 2)
    for problem in (repeated, TINY["zipf"], TINY["any targets"]):
        with pytest.raises(ValueError, match=r"problem is not the theory version on the uniform chain; .*\."):
            uniform_counts(problem)
    two = NoisyRecall.experiment_version(MarkovChain.uniform(4), 5, 0.3, 0, 2)
    with pytest.raises(ValueError, match="this needs a problem with one trigger"):
        marginals(two, 2)
