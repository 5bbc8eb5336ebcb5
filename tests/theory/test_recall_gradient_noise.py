"""How noisy a minibatch's first gradient is: against enumeration of sequences, pairs of them, and labels; and against simulation.

Every statistical test fixes its seeds and is at z = 5: a false alarm in 2 million.
"""

import itertools
import math

import numpy as np
import pytest

from tests.enumeration import enumeration, given_target, inputs
from theory.noisy_recall import (
    draw_sequences,
    entry_moments,
    feed_forward_noise_first,
    first_step,
    margins,
    pair_signal,
    recall_accuracy,
)
from theory.noisy_recall.first_step import Features
from theory.noisy_recall.gradient_noise import Association, Matrix
from theory.problems import MarkovChain, NoisyRecall

ROUNDING = 1e-12
"""Some hundred terms of order one are added up, and squares of means subtracted from them."""
Z = 5.0
FEATURES: list[Features] = ["current", "both"]
MATRICES: list[Matrix] = ["feed_forward", "value"]
TINY = {
    "3, 5": NoisyRecall.theory_version(3, 5, 0.3),
    "4, 4": NoisyRecall.theory_version(4, 4, 0.6, trigger=2),
    "5, 3": NoisyRecall.theory_version(5, 3, 0.0, trigger=1),
}


def shown(problem: NoisyRecall, tokens: np.ndarray, matrix: Matrix, features: Features) -> np.ndarray:
    """What a matrix is shown of each sequence (M, T + 1): x_T or the mean of x_t, shape (M, V or 2 V)."""
    vectors = inputs(tokens[:, :-1], problem.vocabulary_size)
    found = vectors[:, -1] if matrix == "feed_forward" else vectors.mean(1)
    return found[:, : problem.vocabulary_size] if features == "current" else found


def contributions(problem: NoisyRecall, matrix: Matrix, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """(label − 1/V) × features of every sequence, shape (M, V, F), and its probability."""
    every, size = enumeration(problem), problem.vocabulary_size
    surprise = np.eye(size)[every.tokens[:, -1]] - 1 / size
    return surprise[:, :, None] * shown(problem, every.tokens, matrix, features)[:, None], every.probability


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("features", FEATURES)
def test_mean_and_variance_of_every_entry(name: str, matrix: Matrix, features: Features) -> None:
    problem = TINY[name]
    one, weights = contributions(problem, matrix, features)
    mean = np.einsum("s,skf->kf", weights, one)
    variance = np.einsum("s,skf->kf", weights, (one - mean) ** 2)
    found = entry_moments(problem, matrix, features)
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(found.variance, variance, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("features", FEATURES)
def test_the_mean_is_the_first_step(features: Features) -> None:
    problem = NoisyRecall.theory_version(11, 40, 0.35, trigger=4)
    step, width = first_step(problem, features), 12 if features == "current" else 24
    for matrix in MATRICES:
        # A mean over ten targets of entries below one.
        np.testing.assert_allclose(
            entry_moments(problem, matrix, features).mean,
            getattr(step, matrix)[:, :width],
            rtol=0,
            atol=1e-14,
        )


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("association", ["noise", "recall"])
@pytest.mark.parametrize("features", FEATURES)
def test_a_margin_over_all_pairs_of_sequences(
    name: str, matrix: Matrix, association: Association, features: Features
) -> None:
    """A training sequence and a fresh context, independent: all pairs, with their probabilities."""
    problem = TINY[name]
    target, rival = problem.targets[:2]
    right = problem.noise_token if association == "noise" else target
    one, weights = contributions(problem, matrix, features)
    tokens, fresh_weights = given_target(problem, target)
    fresh = shown(problem, tokens, matrix, features)
    pairs = (one[:, right] - one[:, rival]) @ fresh.T  # (training sequence, context)
    by_context = weights @ pairs
    mean = float(by_context @ fresh_weights)
    variance = float(weights @ (pairs - by_context) ** 2 @ fresh_weights)
    context_variance = float((by_context - mean) ** 2 @ fresh_weights)
    found = pair_signal(problem, matrix, association, features)
    assert found.mean == pytest.approx(mean, abs=ROUNDING)
    assert found.variance == pytest.approx(variance, abs=ROUNDING)
    assert found.context_variance == pytest.approx(context_variance, abs=ROUNDING)
    for batch in (1, 20.0):
        spread = math.sqrt(variance / batch + context_variance)
        assert found.signal_to_noise(batch) * spread == pytest.approx(mean, abs=ROUNDING)
    if abs(mean) > 1e-9:
        assert found.batch_size(3.0) == pytest.approx(9 * variance / mean**2, rel=1e-9)
    else:  # the feed-forward matrix sees nothing of the target through the trigger alone
        assert (matrix, association, features) == ("feed_forward", "recall", "current")


def test_pair_signals_are_margins() -> None:
    """At a size beyond enumeration the means are the margins of the first step; arrays of batch sizes are accepted."""
    problem = NoisyRecall.theory_version(12, 60, 0.4)
    for features in FEATURES:
        exact = margins(problem, features)
        for matrix, association in itertools.product(MATRICES, ("noise", "recall")):
            found = pair_signal(problem, matrix, association, features)
            assert found.mean == pytest.approx(getattr(exact, f"{matrix}_{association}"), abs=1e-14)
    ratios = pair_signal(problem, "value", "recall").signal_to_noise(np.array([1e2, 1e4, 1e14]))
    assert np.all(np.diff(ratios) > 0)
    assert pair_signal(problem, "feed_forward", "recall").batch_size(2.0) == math.inf


def brute_noise_first(problem: NoisyRecall, batch_size: int) -> float:
    """Sum over all sequences of labels in which the noise token occurs more often than any other."""
    share = (1 - problem.noise_level) / len(problem.targets)
    found = 0.0
    for labels in itertools.product(range(len(problem.targets) + 1), repeat=batch_size):
        tally = np.bincount(labels, minlength=len(problem.targets) + 1)
        if tally[0] > tally[1:].max():
            found += problem.noise_level ** tally[0] * share ** (batch_size - tally[0])
    return found


@pytest.mark.parametrize(("n_tokens", "largest"), [(3, 7), (4, 6), (6, 4)])
@pytest.mark.parametrize("level", [0.0, 0.2, 0.5, 0.9])
def test_noise_first_over_all_label_sequences(n_tokens: int, largest: int, level: float) -> None:
    problem = NoisyRecall.theory_version(n_tokens, 5, level)
    for batch in range(1, largest + 1):
        # Sums of at most 3⁷ terms, and Poisson probabilities from logarithms.
        assert feed_forward_noise_first(problem, batch) == pytest.approx(
            brute_noise_first(problem, batch), abs=1e-12
        )


@pytest.mark.parametrize(("n_tokens", "batch", "level"), [(20, 60, 0.1), (8, 200, 0.15), (100, 30, 0.05)])
def test_noise_first_against_drawn_labels(n_tokens: int, batch: int, level: float) -> None:
    problem = NoisyRecall.theory_version(n_tokens, 5, level)
    rng, draws = np.random.default_rng(8), 40_000
    shares = np.append(np.full(n_tokens - 1, (1 - level) / (n_tokens - 1)), level)
    labels = rng.multinomial(batch, shares, draws)
    wins = np.mean(labels[:, -1] > labels[:, :-1].max(1))
    exact = feed_forward_noise_first(problem, batch)
    assert 0.05 < exact < 0.95
    assert abs(wins - exact) <= Z * math.sqrt(exact * (1 - exact) / draws)


def test_noise_first_in_large_batches() -> None:
    """Certain when it is the commonest label, impossible when it is not, whatever the size of the batch."""
    assert feed_forward_noise_first(NoisyRecall.theory_version(8, 5, 0.4), 600) == pytest.approx(1, abs=1e-9)
    assert feed_forward_noise_first(NoisyRecall.theory_version(4, 5, 0.05), 600) == pytest.approx(0, abs=1e-9)


def ceiling_by_counts(problem: NoisyRecall, contexts: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The infinite batch's answer is the target that stands most often in the context; ties are shared."""
    found = []
    for context, target in zip(contexts.tolist(), targets.tolist(), strict=True):
        tally = {token: context.count(token) for token in problem.targets}
        most = max(tally.values())
        tied = sum(number == most for number in tally.values())
        found.append((tally[target] == most) / tied)
    return np.array(found)


@pytest.mark.parametrize("features", FEATURES)
def test_the_ceiling_is_the_most_frequent_target(features: Features) -> None:
    """On the very contexts that were drawn, and within their error of the enumerated expectation at tiny size."""
    problem = NoisyRecall.theory_version(8, 64, 0.3, trigger=3)
    ceiling, _ = recall_accuracy(problem, [], 300, np.random.default_rng(4), features)
    drawn = draw_sequences(problem, 300, np.random.default_rng(4))
    wins = ceiling_by_counts(problem, drawn.tokens[:, :-1], drawn.targets[:, 0])
    assert ceiling.value == pytest.approx(wins.mean(), abs=1e-12)
    assert ceiling.standard_error == pytest.approx(wins.std(ddof=1) / math.sqrt(300), rel=1e-9)
    tiny = TINY["4, 4"]
    every = enumeration(tiny)
    exact = every.probability @ ceiling_by_counts(tiny, every.tokens[:, :-1], every.targets[:, 0])
    ceiling, _ = recall_accuracy(tiny, [], 20_000, np.random.default_rng(5), features)
    assert abs(ceiling.value - exact) <= Z * ceiling.standard_error


@pytest.mark.parametrize(
    ("n_tokens", "length", "batch", "steps", "judged"), [(8, 64, 1024, 250, 50), (5, 12, 300, 2000, 50)]
)
def test_recall_after_simulated_minibatches(
    n_tokens: int, length: int, batch: int, steps: int, judged: int
) -> None:
    """α = 0.3, m = 2 N³ or so: steps of many minibatches, each judged on fresh contexts by the argmax over targets."""
    problem, rng = NoisyRecall.theory_version(n_tokens, length, 0.3), np.random.default_rng(21)
    size, targets = problem.vocabulary_size, np.array(problem.targets)

    def averages(tokens: np.ndarray) -> np.ndarray:
        """Mean one-hot of the context, a row of V numbers for each sequence, minibatch by minibatch."""
        found = np.stack([np.mean(tokens[:, :-1] == token, axis=1) for token in range(size)], axis=1)
        return found.reshape(steps, -1, size)

    drawn = draw_sequences(problem, batch * steps, rng).tokens
    surprise = (np.eye(size)[drawn[:, -1]] - 1 / size).reshape(steps, batch, size)
    value = np.matmul(surprise.transpose(0, 2, 1), averages(drawn)) / batch
    fresh = draw_sequences(problem, judged * steps, rng)
    logits = np.matmul(averages(fresh.tokens), value.transpose(0, 2, 1))[:, :, targets]
    wins = (targets[logits.argmax(2)] == fresh.targets.reshape(steps, judged)).mean(1)
    ceiling, (predicted,) = recall_accuracy(problem, [batch], 5000, np.random.default_rng(22))
    error = math.hypot(np.std(wins, ddof=1) / math.sqrt(steps), predicted.standard_error)
    # The minibatch's noise is taken as Gaussian, with skewness 1/√(40 labels of a kind) = 0.16, and as alike for all rivals: both
    # move an accuracy in its second order, by less than 0.003.
    assert abs(wins.mean() - predicted.value) <= Z * error + 0.003
    assert predicted.value < ceiling.value - 0.05, "the batch must matter"
    assert predicted.value > 1 / len(targets) + 0.05, "the step must have learnt"
    assert Z * error < 0.05, "the test must be able to see a wrong variance"


def test_recall_grows_with_the_batch_towards_the_ceiling() -> None:
    problem = NoisyRecall.theory_version(8, 32, 0.3)
    ceiling, found = recall_accuracy(problem, [1e-3, 1e2, 1e4, 1e9], 500, np.random.default_rng(0))
    values = [one.value for one in found]
    assert values == sorted(values)
    # No sequences: every one of the seven targets alike; their unequal variances move that by some percent.
    assert values[0] == pytest.approx(1 / 7, abs=0.05)
    # A ceiling counts a tie of k as 1/k, which finite noise also does, but for unequal variances and correlated rivals.
    assert values[-1] == pytest.approx(ceiling.value, abs=0.02)


def test_bad_input_is_told() -> None:
    problem, rng = TINY["3, 5"], np.random.default_rng(0)
    other = NoisyRecall.theory_version(4, 5, 0.3, MarkovChain.zipf_dirichlet(4))
    with pytest.raises(ValueError, match=r"matrix is 'key'; it must be one of feed_forward, value\."):
        entry_moments(problem, "key")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"association is 'both'; it must be one of noise, recall\."):
        pair_signal(problem, "value", "both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"features is 'all'; it must be one of current, both\."):
        entry_moments(problem, "value", "all")  # type: ignore[arg-type]
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=rf"batch_size is {wrong}; it must be an integer, at least 1\."):
            feed_forward_noise_first(problem, wrong)  # type: ignore[arg-type]
    for call in (
        lambda: entry_moments(other, "value"),
        lambda: pair_signal(other, "value", "noise"),
        lambda: feed_forward_noise_first(other, 3),
        lambda: recall_accuracy(other, [10], 5, rng),
    ):
        with pytest.raises(ValueError, match="problem is not the theory version on the uniform chain"):
            call()
