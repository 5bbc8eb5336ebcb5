"""Drawn sequences: against the probabilities of all sequences, and what can be seen in every single one.

Every statistical test fixes its seed; each has a false-alarm rate of 10⁻⁷.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.enumeration import enumeration, sequences
from tests.strategies import noisy_recalls
from theory.noisy_recall import draw_sequences, scored_positions
from theory.problems import MarkovChain, NoisyRecall

FALSE_ALARM = 1e-7
TINY = {
    "theory": NoisyRecall.theory_version(3, 4, 0.3),
    "theory, zipf": NoisyRecall.theory_version(3, 5, 0.6, MarkovChain.zipf_dirichlet(3, seed=1), trigger=1),
    "theory, no noise": NoisyRecall.theory_version(4, 4, 0.0),
    "experiment": NoisyRecall.experiment_version(MarkovChain.uniform(3), 4, 0.4, 2),
    "experiment, zeros": NoisyRecall.experiment_version(
        MarkovChain(np.array([0.5, 0.25, 0.25]), np.array([[0.5, 0.5, 0], [0, 0.2, 0.8], [1.0, 0, 0]])),
        5,
        0.25,
        0,
        (2,),
    ),
    "two triggers": NoisyRecall.experiment_version(MarkovChain.zipf_dirichlet(3, seed=3), 4, 0.3, 1, 2),
}


def cells(problem: NoisyRecall, targets: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    rows = np.concatenate([targets, tokens], axis=1)
    return rows @ problem.vocabulary_size ** np.arange(rows.shape[1])


@pytest.mark.parametrize("name", TINY)
def test_sequences_and_targets_have_their_probabilities(name: str) -> None:
    """Pearson's χ² over all (targets, sequence) cells, those expected below 25 times joined into one; seed 3."""
    problem, size = TINY[name], 200_000
    every = enumeration(problem)
    drawn = draw_sequences(problem, size, np.random.default_rng(3))
    possible, place = np.unique(cells(problem, every.targets, every.tokens), return_inverse=True)
    expected = size * np.bincount(place, every.probability)
    found = cells(problem, drawn.targets, drawn.tokens)
    assert np.all(np.isin(found, possible)), "an impossible sequence was drawn"
    counts = np.bincount(np.searchsorted(possible, found), minlength=len(possible))
    rare = expected < 25
    counts, expected = (np.append(one[~rare], one[rare].sum()) for one in (counts, expected))
    if expected[-1] < 25:
        counts, expected = counts[:-1], expected[:-1] * counts[:-1].sum() / expected[:-1].sum()
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    threshold = float(stats.chi2.isf(FALSE_ALARM, len(expected) - 1))
    assert statistic < threshold, f"χ² {statistic:.1f}, threshold {threshold:.1f}"


@settings(deadline=None, max_examples=30)
@given(problem=noisy_recalls(), size=st.integers(1, 20), seed=st.integers(0, 99))
def test_every_sequence_is_possible_and_scored_where_the_definition_says(
    problem: NoisyRecall, size: int, seed: int
) -> None:
    drawn = draw_sequences(problem, size, np.random.default_rng(seed))
    length = problem.context_length
    assert drawn.tokens.shape == (size, length + 1)
    assert drawn.targets.shape == (size, len(problem.triggers))
    assert drawn.scored.shape == (size, length)
    possible = {(*targets, *sequence) for targets, sequence, p in sequences(problem) if p}
    for sequence, targets, scored in zip(*(one.tolist() for one in drawn), strict=True):
        assert (*targets, *sequence) in possible
        for place in range(length):
            if problem.scored == "last":
                assert scored[place] == (place == length - 1)
            else:
                token = sequence[place]
                assert scored[place] == (token in problem.triggers and token in sequence[:place])
    np.testing.assert_array_equal(scored_positions(problem, drawn.tokens[:, :-1]), drawn.scored)


def test_the_same_generator_draws_the_same() -> None:
    problem = TINY["two triggers"]
    one, same, other = (draw_sequences(problem, 50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one.tokens, other.tokens)


def test_transitions_of_a_large_chain() -> None:
    """All rows of Tiny Shakespeare's characters but the triggers' in one χ², and the noise after them by its binomial law."""
    chain = MarkovChain.tiny_shakespeare()
    problem = NoisyRecall.experiment_version(chain, 256, 0.4, 2, 2)
    drawn = draw_sequences(problem, 1500, np.random.default_rng(4))
    pairs = np.zeros((chain.n_tokens, chain.n_tokens))
    np.add.at(pairs, (drawn.tokens[:, :-1], drawn.tokens[:, 1:]), 1)
    statistic, freedom = 0.0, 0
    for row in set(range(chain.n_tokens)) - set(problem.triggers):
        expected = pairs[row].sum() * chain.transition[row]
        assert not pairs[row][expected == 0].any()
        common = expected >= 25
        if common.sum() > 1:
            # The rare ones are left out, and the common ones known to add up.
            wanted = expected[common] * pairs[row][common].sum() / expected[common].sum()
            statistic += float(np.sum((pairs[row][common] - wanted) ** 2 / wanted))
            freedom += int(common.sum()) - 1
    assert freedom > 200
    assert statistic < float(stats.chi2.isf(FALSE_ALARM, freedom))
    for place, trigger in enumerate(problem.triggers):
        here = drawn.tokens[:, :-1] == trigger
        after = drawn.tokens[:, 1:][here]
        target = np.broadcast_to(drawn.targets[:, place, None], here.shape)[here]
        assert np.all((after == target) | (after == 2))
        told = target != 2
        z = (np.sum(after[told] == 2) - 0.4 * told.sum()) / math.sqrt(0.24 * told.sum())
        assert told.sum() > 1000
        assert abs(z) < 5.4  # 1e-7
