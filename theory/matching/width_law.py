"""How wide the construction must be: scores of right and wrong slots as Gaussians whose variance counts the words in two streams.

Law (thm-width). Let n_i be the unit vectors that make up a position's stream (word matrices are orthogonal, so each word of an
embedding is one). In layer l ≥ 1 a query scores the right slot λ (1 + noise) and any other λ · noise, noise of variance
n_query n_key / d, less 1/d for the matched pair of words; the unembedding reads the right token with 1 + noise and any other with
noise, of variance n_last / d. *Proof sketch.* A pair of words whose matrices do not cancel is uᵀ O v for unit vectors u, v and a
matrix O as good as random: mean 0, variance 1/d; the pairs are uncorrelated. ∎ With Gaussian W_vo a factor GᵀG in between
doubles the variance of a pair, and the right score has that of the kernel's diagonal, 2/d or about 5/d.

A stream at most doubles with every layer: n ≤ 2^(l+1) in layer l with positions, so that the noise in the last layer has
variance 4^L/d at most. **The width needed grows at most four times a layer**, and little less (3.4 to 3.8 times with eight pairs,
as streams near BOS hold less). Without positions streams start from 1 or 2 words instead of 3 or 4, and BOS adds nothing: a
quarter of the width, which grows about three times. The last match is binding: n_last/d is 2^(L+1)/d only, against more rivals.

Two predictions, both means over weights and sentences:

- `expected_accuracy`, by integrals. Attention is hard; a position without a match reads an earlier one at random; streams hold
  their mean number of units; noise is independent but for units that streams share; so are layers. Beside the right slot, the key
  slot of the pair after it serves as well, as it shows the same token. Within 0.04 of the sampled model for L ≤ 3; below it by
  up to 0.08 for L = 4 and 5, as streams differ from each other and the same ones are read again and again.
- `sample_accuracy`, by sampling the law: it draws sentences and passes coefficients of words on, with softmax, in a space where
  all terms are orthonormal and every layer's kernel is λ (match + Gaussian matrix/√d). Within 0.06 of the construction (tests).

They differ from the construction in that its layers share matrices, one draw of weights serves all sentences, and unit vectors of
few dimensions are not quite Gaussian.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import optimize, special

from theory.matching.construction import Construction
from theory.problems.checks import integer


def mean_units(problem: Construction) -> np.ndarray:
    """Mean number of unit vectors in each position's stream before layers 0 … L − 1, and after the last; (n_layers + 1, T).

    Layer 0 adds the source's units. Then the last position gains those of a value slot, wherever it is; so does a value slot
    whose token is a key of an earlier pair, q/m of those at place q; all others gain the mean over themselves and what stands
    before.
    """
    pairs, length, own = problem.n_pairs, problem.sentence_length, float(problem.positions)
    now = np.full(length, 1 + own)
    now[0] = own
    rows = [now, now + now[problem.first_sources]]
    matched = np.zeros(length)
    matched[2:-1:2] = np.arange(pairs) / pairs
    places = np.arange(1, length + 1)
    for _ in range(1, problem.n_layers):
        now = rows[-1]
        anywhere = np.cumsum(now) / places
        slots = np.zeros(length)
        slots[2:-1:2] = now[2:-1:2]
        before = np.maximum(np.cumsum(slots > 0) - (slots > 0), 1)
        slot = (np.cumsum(slots) - slots) / before
        read = matched * slot + (1 - matched) * anywhere
        read[-1] = now[2:-1:2].mean()
        rows.append(now + read)
    return np.array(rows)


def _shared_units(problem: Construction, units: np.ndarray) -> np.ndarray:
    """Mean number of units in common, before layers 0 … L − 1: a value slot and another position, two others; (n_layers, 2).

    Those that attend to BOS share its units. Later two positions read the same one by chance, as two independent uniform
    choices among earlier positions agree, unless both have a match.
    """
    pairs, length = problem.n_pairs, problem.sentence_length
    harmonic = sum(1 / k for k in range(1, length + 1))
    agree = 2 * (length - harmonic) / (length * (length - 1)) * (1 - ((pairs - 1) / (2 * pairs)) ** 2)
    rows = [np.zeros(2), np.array([0.0, float(problem.positions)])]
    for now in units[1:-2]:
        rows.append(2 * rows[-1] + agree * (now.mean() - rows[-1]))
    return np.array(rows[: problem.n_layers])


def win_probabilities(problem: Construction) -> np.ndarray:
    """P(right score is the largest), (L + 1,): layer 0 for one value slot, layers 1 … L − 1 for the last position, unembedding.

    Integrals of normal laws, in the limit λ → ∞.
    """
    return _win_probabilities(problem, float(problem.width))


def expected_accuracy(problem: Construction) -> float:
    """Accuracy on n_layers − 1 steps as the product of `win_probabilities`, that of layer 0 once for each slot that is needed.

    In the limit λ → ∞, a mean over weights, sentences and starts (tail 0). A rival that wins is the next pair's key slot, which
    serves as well, in one case of 2m + 1.
    """
    return _accuracy(problem, float(problem.width))


def required_width(n_layers: int, accuracy: float = 0.9, problem: Construction | None = None) -> float:
    """The width, a real number, at which `expected_accuracy` is `accuracy`, for this many layers.

    - `problem`: where all else is taken from; six pairs and 101 tokens by default, or as many pairs as there are steps.

    Root of an increasing function. Raises ValueError for an accuracy outside (0.05, 1).
    """
    if not 0.05 < accuracy < 1:
        raise ValueError(f"accuracy is {accuracy}; it must be in (0.05, 1).")
    layers = integer("n_layers", n_layers, 2)
    if problem is None:
        pairs = max(6, layers - 1)
        problem = Construction(layers, 2, pairs, max(101, pairs + 1))
    model = replace(problem, n_layers=layers)
    low, high = 2.0, 64.0
    while _accuracy(model, high) < accuracy:
        low, high = high, 2 * high
    return float(optimize.brentq(lambda width: _accuracy(model, width) - accuracy, low, high, rtol=1e-10))


def _accuracy(problem: Construction, width: float) -> float:
    wins = _win_probabilities(problem, width)
    steps, pairs = problem.n_layers - 1, problem.n_pairs
    # The label is no key when it ends the chain: one start in m − k + 1.
    lucky = np.array([1.0] * (steps - 1) + [1 - 1 / (pairs - steps + 1)]) / (2 * pairs + 1)
    matches = wins[1:-1] + (1 - wins[1:-1]) * lucky
    return float(wins[0] ** steps * np.prod(matches) * wins[-1])


def _win_probabilities(problem: Construction, width: float) -> np.ndarray:
    pairs, own, gaussian = problem.n_pairs, float(problem.positions), problem.kind == "gaussian"
    first = 1.0
    if problem.positions:
        # x_v·p_r of idle positions r adds up at BOS; an earlier key slot competes by its own outer product and by x_k·p.
        right, sink = 2 / width + 4 * (pairs + 1) / width**2, (2 * pairs + 3) / width
        first = statistics.fmean(
            [
                _largest(right, [(1, sink), (before, 4 / width), (before + 1, 2 / width)])
                for before in range(pairs)
            ]
        )
    wins, units = [first], mean_units(problem)
    idle_places = [0, *range(1, problem.sentence_length, 2)]
    for layer, (shared, shared_idle) in enumerate(_shared_units(problem, units)):
        if layer == 0:
            continue
        now, slots = units[layer], units[layer][2:-1:2]
        # A factor GᵀG stands behind words that begin with the layer that the kernel cancels, and counts them twice.
        query = (now[-1] + (units[layer - 1][2:-1:2].mean() if gaussian and layer > 1 else 0)) / width
        kernel = gaussian * (1 if layer == 1 else 2) / width
        values = query * (slots + gaussian * (1 + own) - shared)
        idle = query * np.maximum(now[idle_places] + gaussian * own - shared_idle, 0.0)
        wins.append(
            _largest(
                values.mean() + kernel - 1 / width,
                [((pairs - 1) / pairs, value) for value in values],
                [(1, other) for other in idle],
                query * (shared_idle - shared),
            )
        )
    final = units[-1][-1] + gaussian * units[-2][2:-1:2].mean()
    wins.append(_largest((final - 1) / width, [(problem.vocabulary_size - 1, final / width)]))
    return np.array(wins)


def _largest(
    variance: float,
    rivals: Sequence[tuple[float, float]],
    idle: Sequence[tuple[float, float]] = (),
    common: float = 0.0,
) -> float:
    """P(N(1, variance) is above all others), `rivals` as (how many, variance around 0); `idle` ones share a noise besides."""
    z = np.linspace(-8, 8, 401)
    weight = np.exp(-(z**2) / 2)
    whole = weight.sum()
    score = 1 + math.sqrt(variance) * z
    weight = weight * _above(score, rivals)
    if idle:
        shift = np.linspace(-5, 5, 21)
        shares = np.exp(-(shift**2) / 2)
        weight *= _above(score[:, None] - math.sqrt(common) * shift, idle) @ shares / shares.sum()
    return float(weight.sum() / whole)


def _above(score: np.ndarray, rivals: Sequence[tuple[float, float]]) -> np.ndarray:
    """P(all rivals are below each score)."""
    product = np.ones_like(score)
    for count, variance in rivals:
        product *= (
            special.ndtr(score / math.sqrt(variance)) if variance > 0 else (score > 0).astype(float)
        ) ** count
    return product


def sample_accuracy(
    problem: Construction, n_sentences: int, generator: np.random.Generator, tail: int = 0
) -> float:
    """Share of right answers of the Gaussian score model over random sentences, fresh noise for each.

    A stream is its coefficients on (word, label) for the labels of one sentence; words of decreasing layers are sets, written as
    bits. Layer 0 uses inner products of labels with position vectors, N(0, 1/d), each layer l ≥ 1 a matrix of them.

    - `tail`: pairs of the chain beyond the label, at least; the start is uniform on what is left.

    Cost: 4^(L−1) (3m + 3)² normal variables a sentence. Raises ValueError when no start is left.
    """
    count, spare = integer("n_sentences", n_sentences, 1), integer("tail", tail, 0)
    if problem.n_pairs < problem.n_layers - 1 + spare:
        raise ValueError(
            f"tail is {tail}; it must be at most {problem.n_pairs - problem.n_layers + 1} (n_pairs − steps)."
        )
    n_terms = 2 ** (problem.n_layers - 1) * (3 * problem.n_pairs + 3)
    chunk = max(1, int(1e7) // n_terms**2)
    right = sum(
        _right_answers(problem, min(chunk, count - done), generator, spare) for done in range(0, count, chunk)
    )
    return right / count


def _right_answers(problem: Construction, batch: int, generator: np.random.Generator, tail: int) -> int:
    pairs, layers, length = problem.n_pairs, problem.n_layers, problem.sentence_length
    deviation, gaussian = 1 / math.sqrt(problem.width), problem.kind == "gaussian"
    places, tokens = np.arange(length), pairs + 1
    labels = tokens + length
    order = generator.permuted(np.tile(np.arange(pairs), (batch, 1)), axis=1)
    start = generator.integers(0, pairs - (layers - 1) - tail + 1, size=batch)
    streams = np.zeros((batch, length, 1, labels))
    rows = np.arange(batch)
    streams[rows[:, None], places[1:-1:2], 0, order] = 1
    streams[rows[:, None], places[2:-1:2], 0, order + 1] = 1
    streams[rows, -1, 0, start] = 1
    if problem.positions:
        streams[:, places, 0, tokens + places] = 1
    sources = problem.first_sources
    for layer in range(layers):
        flat = streams.reshape(batch, length, -1)
        if layer == 0 and not problem.positions:
            attention = np.broadcast_to(np.eye(length)[sources], (batch, length, length))
        elif layer == 0:
            products = deviation * generator.normal(size=(batch, labels, length))
            upper = np.triu(products[:, tokens:], 1)
            products[:, tokens:] = upper + np.swapaxes(upper, 1, 2) + np.eye(length)
            found = flat @ products
            attention = _attend(found[..., 1:] @ np.swapaxes(found[..., sources[1:]], 1, 2), problem.strength)
        else:
            table = deviation * generator.normal(size=(batch, flat.shape[-1], flat.shape[-1]))
            words = np.arange(2**layer)
            query_word = 0 if layer == 1 else 2 ** (layer - 1)
            if gaussian:
                behind = np.repeat((words & query_word) > 0, labels)
                stored = np.repeat(words == 1, labels)
                table *= np.sqrt((1.0 + behind)[:, None] * (1.0 + stored))
            matched = np.ones((batch, labels))
            if gaussian:
                matched += (
                    deviation * math.sqrt(2 if layer == 1 else 5) * generator.normal(size=matched.shape)
                )
            every = np.arange(labels)
            table[:, query_word * labels + every, labels + every] = matched
            attention = _attend(flat @ table @ np.swapaxes(flat, 1, 2), problem.strength)
        read = np.einsum("bij,bjwl->biwl", attention, streams)
        streams = np.concatenate([streams, read], axis=2)
    last = streams[:, -1]
    latest = np.arange(2**layers) >= 2 ** (layers - 1)
    behind = 1.0 + gaussian * latest
    units = np.repeat(np.einsum("bwl,w->b", last**2, behind)[:, None], problem.vocabulary_size, 1)
    signal = last[:, 2 ** (layers - 1), :tokens]
    units[:, :tokens] -= behind[-1] * signal**2  # what is read of a token itself is no noise
    logits = deviation * np.sqrt(np.maximum(units, 0.0)) * generator.normal(size=units.shape)
    if gaussian:
        signal = signal * (1 + deviation * math.sqrt(2) * generator.normal(size=signal.shape))
    logits[:, :tokens] += signal
    return int((logits.argmax(1) == start + layers - 1).sum())


def _attend(scores: np.ndarray, strength: float) -> np.ndarray:
    """Causal softmax of λ · scores, or of its limit λ → ∞."""
    length = scores.shape[-1]
    allowed = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
    if math.isinf(strength):
        return np.eye(length)[allowed.argmax(-1)]
    weights = np.exp(strength * (allowed - allowed.max(-1, keepdims=True)))
    return weights / weights.sum(-1, keepdims=True)
