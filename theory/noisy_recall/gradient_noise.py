"""How noisy the first gradient step is: exact variances of minibatch gradients, and the batch sizes that each association needs.

A minibatch of m sequences gives, for W_F and W_V at zero, the mean of m independent matrices (label − 1/V) × features, where
the features are those of the last position, and the average of all positions. Uniform chain, moments exact at every size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import stats

from theory.noisy_recall.bayes import Estimate
from theory.noisy_recall.counts import counts, require_uniform, swap_target, trigger_probability
from theory.noisy_recall.first_step import Features, check_features
from theory.noisy_recall.sampling import draw_sequences
from theory.problems import NoisyRecall

Matrix = Literal["feed_forward", "value"]
"""Which matrix takes the step."""
Association = Literal["noise", "recall"]
"""What is learnt: the noise token after the trigger, or the target."""


@dataclass(frozen=True)
class _FeatureMoments:
    """Moments of a matrix's features given each target: `mean` (targets, F) and `second` (targets, F, F)."""

    mean: np.ndarray
    second: np.ndarray


def _feature_moments(problem: NoisyRecall, matrix: Matrix, features: Features) -> _FeatureMoments:
    """Features of the last position (feed_forward) or their average over all positions (value), in coordinates of embeddings."""
    require_uniform(problem)
    check_features(features)
    if matrix not in get_args(Matrix):
        raise ValueError(f"matrix is {matrix!r}; it must be one of {', '.join(get_args(Matrix))}.")
    size, target = problem.vocabulary_size, problem.targets[0]
    if matrix == "value":
        moments = counts(problem, target)
        length = problem.context_length
        mean, second = moments.current / length, moments.current_second / length**2
        if features == "both":
            mean = np.concatenate([mean, moments.previous / length])
            cross = moments.cross / length**2  # E m_v n_w
            second = np.block([[second, cross.T], [cross, moments.previous_second / length**2]])
    else:
        one = np.zeros(size)
        one[problem.trigger] = 1.0
        mean, second = one, np.outer(one, one)
        if features == "both":
            before = _last_but_one(problem, target)
            mean = np.concatenate([one, before])
            second = np.block([[second, np.outer(one, before)], [np.outer(before, one), np.diag(before)]])
    means, seconds = [], []
    for other in problem.targets:
        parts = len(mean) // size
        order = np.concatenate(
            [part * size + swap_target(problem, np.arange(size), target, other) for part in range(parts)]
        )
        means.append(mean[order])
        seconds.append(second[np.ix_(order, order)])
    return _FeatureMoments(np.array(means), np.array(seconds))


def _last_but_one(problem: NoisyRecall, target: int) -> np.ndarray:
    """P(z_{T−1} = v | target)."""
    size, length, level = problem.vocabulary_size - 1, problem.context_length, problem.noise_level
    last, before = (float(trigger_probability(size, length - back)) for back in (1, 2))
    found = np.full(size + 1, last)
    found[problem.noise_token] = level * before
    found[target] += (1 - level) * before
    return found


def _label_table(problem: NoisyRecall) -> np.ndarray:
    """P(label | target), shape (targets, V)."""
    table = np.zeros((len(problem.targets), problem.vocabulary_size))
    table[np.arange(len(table)), list(problem.targets)] = 1 - problem.noise_level
    table[:, problem.noise_token] = problem.noise_level
    return table


@dataclass(frozen=True)
class EntryMoments:
    """Mean and variance of one sequence's contribution to each entry of a gradient, shapes (V, F); F = V or 2 V.

    A minibatch of m sequences has the same mean and the variance over m (prop-gradient-variance).
    """

    mean: np.ndarray
    variance: np.ndarray


def entry_moments(problem: NoisyRecall, matrix: Matrix, features: Features = "current") -> EntryMoments:
    """Exact moments of minus the gradient at zero, entry by entry. Cost: T V³ for the value matrix, then N V²."""
    moments = _feature_moments(problem, matrix, features)
    labels = _label_table(problem) / len(problem.targets)
    delta = 1 / problem.vocabulary_size
    mean = (labels - delta / len(labels)).T @ moments.mean
    squares = np.einsum("jff->jf", moments.second)
    weight = labels * (1 - delta) ** 2 + (1 / len(labels) - labels) * delta**2
    return EntryMoments(mean, weight.T @ squares - mean**2)


@dataclass(frozen=True)
class PairSignal:
    """The logit of a right token over a generic one after a step on m sequences, in a fresh context, per learning rate.

    Its mean is `mean`, its variance `variance / m + context_variance`: the first part comes from the minibatch, the
    second from the tokens that happen to stand in the fresh context, which no batch size removes.
    """

    mean: float
    variance: float
    context_variance: float

    def signal_to_noise(self, batch_size: float | np.ndarray) -> float | np.ndarray:
        """Mean over standard deviation at this batch size: it grows like the square root of it until contexts limit it."""
        return self.mean / np.sqrt(self.variance / np.asarray(batch_size) + self.context_variance)

    def batch_size(self, signal_to_noise: float) -> float:
        """Sequences at which the minibatch's own noise alone leaves this ratio of mean to standard deviation."""
        return signal_to_noise**2 * self.variance / self.mean**2 if self.mean else math.inf


def pair_signal(
    problem: NoisyRecall, matrix: Matrix, association: Association, features: Features = "current"
) -> PairSignal:
    """Exact moments of one pairwise margin (prop-pair-signal): "noise" is the noise token's, "recall" the target's.

    Cost: T V³ + N V². Raises ValueError for unknown words.
    """
    if association not in get_args(Association):
        raise ValueError(
            f"association is {association!r}; it must be one of {', '.join(get_args(Association))}."
        )
    moments = _feature_moments(problem, matrix, features)
    labels = _label_table(problem) / len(problem.targets)
    here, rival = 0, problem.targets[1]
    right = problem.noise_token if association == "noise" else problem.targets[here]
    slope = (labels[:, right] - labels[:, rival]) @ moments.mean
    spread = np.einsum("j,jfg->fg", labels[:, right] + labels[:, rival], moments.second)
    mean, second = moments.mean[here], moments.second[here]
    margin = float(mean @ slope)
    pull = float(slope @ second @ slope)
    return PairSignal(margin, float(np.sum(second * spread)) - pull, max(pull - margin**2, 0.0))


def feed_forward_noise_first(problem: NoisyRecall, batch_size: int) -> float:
    """Probability that after one step of the feed-forward matrix on m = `batch_size` sequences the noise token beats every other.

    Exact: it does so if its label was drawn more often than any other, a question of multinomial counts (features: current token
    alone; a tie is no victory). Cost: m convolutions of length m, a few times ln N.
    """
    require_uniform(problem)
    if isinstance(batch_size, bool) or int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be an integer, at least 1.")
    total, cells = int(batch_size), len(problem.targets)
    drawn = stats.binom.pmf(np.arange(total + 1), total, problem.noise_level)
    found = 0.0
    for noise in range(1, total + 1):
        rest = total - noise
        if drawn[noise] < 1e-15:
            continue
        if rest < noise:
            found += drawn[noise]
            continue
        one = stats.poisson.pmf(np.arange(min(noise, rest + 1)), rest / cells)
        found += drawn[noise] * _power(one, cells, rest) / stats.poisson.pmf(rest, rest)
    return float(min(found, 1.0))


def _power(row: np.ndarray, power: int, place: int) -> float:
    """Entry `place` of the `power`-fold convolution of a row with itself."""
    result, base = np.ones(1), row
    while power:
        if power & 1:
            result = np.convolve(result, base)[: place + 1]
        base = np.convolve(base, base)[: place + 1]
        power >>= 1
    return float(result[place]) if place < len(result) else 0.0


def recall_accuracy(
    problem: NoisyRecall,
    batch_sizes: Sequence[float] | np.ndarray,
    n_contexts: int,
    rng: np.random.Generator,
    features: Features = "current",
) -> tuple[Estimate, list[Estimate]]:
    """How often one step of the value matrix on m sequences puts the target above all other targets, in a fresh context.

    Contexts are drawn (hence the standard errors), what the minibatch adds in each is Gaussian with its exact variance, the
    same for every token up to the negative correlation of label counts, which shifts all alike. Good for m ≫ N. Returns
    the ceiling of an infinite batch, and the value at each batch size. Cost: n_contexts · N · V².
    """
    moments = _feature_moments(problem, "value", features)
    labels = _label_table(problem) / len(problem.targets)
    drawn = draw_sequences(problem, n_contexts, rng)
    tokens, size = drawn.tokens[:, :-1], problem.vocabulary_size
    rows = np.arange(n_contexts)[:, None]
    shown = np.zeros((n_contexts, size * (1 if features == "current" else 2)))
    np.add.at(shown, (rows, tokens), 1 / problem.context_length)
    if features == "both":
        np.add.at(shown, (rows, size + tokens[:, :-1]), 1 / problem.context_length)
    targets = list(problem.targets)
    slopes = labels[:, targets].T @ moments.mean
    mean = shown @ slopes.T
    spread = np.sqrt(
        np.stack(
            [
                labels[place, token] * np.einsum("mf,fg,mg->m", shown, moments.second[place], shown)
                for place, token in enumerate(targets)
            ],
            axis=1,
        )
    )
    answer = np.searchsorted(targets, drawn.targets[:, 0])
    lead = np.take_along_axis(mean, answer[:, None], 1) - mean
    own = np.take_along_axis(spread, answer[:, None], 1)
    rival = np.ones(mean.shape, bool)
    rival[rows[:, 0], answer] = False
    tolerance = 1e-9 * abs(mean).max()
    tied = (abs(lead) <= tolerance) & rival
    best = np.all((lead > -tolerance) | ~rival, axis=1) / (1 + tied.sum(1))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    found = []
    for batch in batch_sizes:
        wins = np.zeros(n_contexts)
        for node, weight in zip(nodes, weights, strict=True):
            reach = (lead * math.sqrt(batch) + own * node) / spread
            logs = stats.norm.logcdf(reach)
            wins += weight * np.exp(np.where(rival, logs, 0.0).sum(1))
        found.append(Estimate(float(wins.mean()), float(wins.std(ddof=1) / math.sqrt(n_contexts))))
    ceiling = Estimate(float(best.mean()), float(best.std(ddof=1) / math.sqrt(n_contexts)))
    return ceiling, found
