"""How close a kernel is to a multiple of the identity: scores, their values for the kernels at hand, and their limits.

Of a kernel K, d × d:

- `matching_score`: (1/n) trace softmax_row(scale · X K Xᵀ), the mean attention of n embeddings to themselves. It means nothing
  without its scale: with K = 1 + noise of rms 0.05 and 102 unit embeddings it is 0.03 at scale 1 and 1.00 at scale 20. The
  scale of a model is that of its scores, 1/√d_k and the gain of its normalisation included.
- `kernel_score` = d · trace K / Σ |K_ij|, `diagonal_ratio` = mean diagonal / rms off-diagonal, `alignment` =
  trace K / (√d ‖K‖_F), the cosine between K and the identity. None depends on a positive factor of K. Only `alignment` is
  the same in every orthonormal basis.

Proposition (prop-rank). alignment(K) ≤ √(rank K / d), with equality iff K is a positive multiple of an orthogonal projector.
*Proof.* trace K ≤ Σ σ_i ≤ √r ‖K‖_F with singular values σ_i (von Neumann; Cauchy–Schwarz), and both are equalities iff K is
symmetric and positive with r equal eigenvalues. ∎ So it is the ceiling of the alignment when d_k < d.

There is no such ceiling for the other two: the projector on r *coordinates* is diagonal, and has kernel score d and diagonal
ratio ∞. A projector in general position has far less (`projector_scores`). Averaged over all orthonormal bases,
(d + 2) Σ_{i≠j} K_ij² = (d + 1) ‖K‖_F² − trace K² − (trace K)², which is least for projectors, given rank and trace, as
trace K² ≤ ‖K‖_F²: among kernels in general position they have the largest diagonal ratio (in this sense of a mean). That they
also have the largest kernel score is not proven; it follows in the limit of large d where off-diagonal entries are Gaussian.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from theory.problems.checks import integer


class Scores(NamedTuple):
    """Three scores of a kernel, of its expectation, or their standard deviations."""

    kernel_score: float
    diagonal_ratio: float
    alignment: float


def matching_score(kernel: ArrayLike, embeddings: ArrayLike, scale: float) -> np.ndarray:
    """(1/n) trace softmax_row(scale · X K Xᵀ), shape of the leading axes of `kernel`, in [0, 1].

    - `kernel`: (…, d, d). `embeddings`: X, rows are the n embeddings, (n, d). `scale`: what multiplies the scores.

    Cost: n d² + n² d multiplications.
    """
    rows = np.asarray(embeddings, dtype=float)
    table = scale * (rows @ np.asarray(kernel, dtype=float) @ rows.T)
    return np.mean(np.exp(np.einsum("...ii->...i", table) - special.logsumexp(table, axis=-1)), axis=-1)


def kernel_score(kernel: ArrayLike) -> np.ndarray:
    """d · trace K / Σ |K_ij|, at most d; shape of the leading axes."""
    array = np.asarray(kernel, dtype=float)
    total = np.abs(array).sum((-1, -2))
    return array.shape[-1] * np.trace(array, axis1=-2, axis2=-1) / total


def diagonal_ratio(kernel: ArrayLike) -> np.ndarray:
    """Mean of the diagonal over the rms of all other entries; shape of the leading axes. Needs d ≥ 2."""
    array = np.asarray(kernel, dtype=float)
    size = array.shape[-1]
    diagonal = np.einsum("...ii->...i", array)
    # Summed without the diagonal, as a difference of sums loses the small rest of a nearly diagonal kernel.
    rest = np.where(np.eye(size, dtype=bool), 0.0, array)
    return np.mean(diagonal, axis=-1) / np.sqrt(np.sum(rest**2, axis=(-1, -2)) / (size * (size - 1)))


def alignment(kernel: ArrayLike) -> np.ndarray:
    """trace K / (√d ‖K‖_F), the cosine with the identity, in [−1, 1]; shape of the leading axes."""
    array = np.asarray(kernel, dtype=float)
    norm = np.sqrt(np.sum(array**2, axis=(-1, -2)))
    return np.trace(array, axis1=-2, axis2=-1) / (math.sqrt(array.shape[-1]) * norm)


# --- kernels at hand


def gaussian_scores(layer: int, width: int) -> Scores:
    """Of the ideal kernels with Gaussian W_vo, entries N(0, 1/d): W_qk(1) = W_vo(0)ᵀ, W_qk(l) = W_vo(l − 1) W_vo(0)ᵀ for l ≥ 2.

    Ker(1) = GᵀG and Ker(l) = G′ᵀG′ GᵀG have diagonal mean 1 and off-diagonal variances 1/d and (3 d + 2)/d², exactly; the
    kernel score takes entries to be Gaussian, an error below 1/d of it: d/(1 + √(2d/π)) and d/(1 + √(6d/π)) for large d. The
    alignment is 1/√2 and 1/2 there. With orthogonal W_vo all these kernels are 1: kernel score d, alignment 1.
    """
    size = integer("width", width, 2)
    if integer("layer", layer, 1) == 1:
        variance, square = 1 / size, 2 * size + 1.0
    else:
        variance, square = (3 * size + 2) / size**2, 4 * size + 4 + 1 / size
    spread = math.sqrt(variance)
    return Scores(
        size / (1 + (size - 1) * math.sqrt(2 / math.pi) * spread), 1 / spread, math.sqrt(size / square)
    )


def random_deviations(width: int) -> Scores:
    """Standard deviations of the scores of a kernel with independent N(0, s²) entries, of mean 0: √(π/(2d)), 1/√d, 1/d.

    That of the alignment is exact; the others neglect the fluctuations of the denominators, 1/d of them.
    """
    size = integer("width", width, 2)
    return Scores(math.sqrt(math.pi / (2 * size)), 1 / math.sqrt(size), 1 / size)


def projector_scores(width: int, rank: int) -> Scores:
    """Of a random orthogonal projector of this rank, from the exact moments of its entries.

    P_ii follows Beta(r/2, (d − r)/2); given P_ii = p, P_ij is √(p(1 − p)) times a coordinate of a random unit vector of d − 1
    dimensions. Ratios of means: the fluctuations of sums over d² entries are neglected. The alignment, √(r/d), is exact. At
    d = 400 and r = 64: 10.7, 8.7 and 0.4. Raises ValueError unless 1 ≤ rank < width.
    """
    size, order = integer("width", width, 2), integer("rank", rank, 1)
    if order >= size:
        raise ValueError(f"rank is {order}; it must be below width, which is {size}.")
    square = order * (size - order) / (size * (size + 2) * (size - 1))
    mean = order / size
    return Scores(
        size * mean / (mean + (size - 1) * projector_absolute_entry(size, order)),
        mean / math.sqrt(square),
        math.sqrt(mean),
    )


def projector_absolute_entry(width: int, rank: int) -> float:
    """E|P_ij|, i ≠ j, of a random orthogonal projector of this rank r, exact.

    B((r + 1)/2, (d − r + 1)/2) / B(r/2, (d − r)/2) · Γ((d − 1)/2) / (√π Γ(d/2)), as `projector_scores` says.
    """
    first, second = rank / 2, (width - rank) / 2
    logarithm = (
        special.betaln(first + 0.5, second + 0.5)
        - special.betaln(first, second)
        + special.gammaln((width - 1) / 2)
        - special.gammaln(width / 2)
    )
    return float(math.exp(logarithm) / math.sqrt(math.pi))


# --- the matching score and its scale


def softmax_win(scale: float, n_rivals: int, mean: float, deviation: float, rival_deviation: float) -> float:
    """Mean softmax probability of a score N(mean, deviation²) among n_rivals scores N(0, rival_deviation²), all independent.

    - `scale`: multiplies all scores; inf asks for the probability of being the largest.

    Softmax chooses as the largest of scores with Gumbel noise does, so that it is ∫ f(y) F(y)^n_rivals dy with the density f of
    the one and the distribution F of the others, normal plus Gumbel/scale: a quadrature, good to about 1e-8. As scale → 0 it is
    1/(n_rivals + 1). Raises ValueError for a scale that is not above 0, or deviations below 0.
    """
    rivals = integer("n_rivals", n_rivals, 0)
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it must be above 0.")
    for name, value in (("deviation", deviation), ("rival_deviation", rival_deviation)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}; it must be finite and at least 0.")
    if math.isinf(scale):
        # y = mean + deviation z; F is a step when all rivals are 0.
        z = np.linspace(-9, 9, 2001)
        y = mean + deviation * z
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (
                np.where(y == 0, 0.0, y / rival_deviation) if rival_deviation == 0 else y / rival_deviation
            )
        weight = np.exp(-(z**2) / 2)
        return float(weight @ np.exp(rivals * special.log_ndtr(ratio)) / weight.sum())
    y = _grid(scale * mean, scale * deviation, scale * rival_deviation)
    density = _smoothed(y - scale * mean, scale * deviation)[1]
    log_others = np.log(np.maximum(_smoothed(y, scale * rival_deviation)[0], 1e-300))
    return float(np.trapezoid(density * np.exp(rivals * log_others), y))


def _grid(mean: float, deviation: float, rival_deviation: float) -> np.ndarray:
    """Points of y, in units of 1/scale, fine enough for both distributions."""
    low, high = mean - 9 * deviation - 5, mean + 9 * deviation + 40
    step = 0.1 * math.hypot(1, min(deviation, rival_deviation))
    return np.linspace(low, high, math.ceil((high - low) / step) + 1)


def _smoothed(y: np.ndarray, deviation: float) -> tuple[np.ndarray, np.ndarray]:
    """Distribution and density of N(0, deviation²) plus a standard Gumbel variable, summing over the narrower one."""
    if deviation <= 1:
        z = np.arange(-9, 9.1, 0.25)
        weight = np.exp(-(z**2) / 2)
        weight /= weight.sum()
        shifted = y[:, None] - deviation * z
        small = np.exp(-np.maximum(shifted, -700))
        return np.exp(-small) @ weight, (small * np.exp(-small)) @ weight
    g = np.arange(-4, 40, 0.25)
    weight = np.exp(-g - np.exp(-g))
    weight /= weight.sum()
    ratio = (y[:, None] - g) / deviation
    density = np.exp(-(ratio**2) / 2) / (deviation * math.sqrt(2 * math.pi))
    return special.ndtr(ratio) @ weight, density @ weight


def expected_matching_score(
    scale: float,
    n_tokens: int,
    width: int,
    noise: float = 0.0,
    rank: int | None = None,
    gaussian: bool = False,
) -> float:
    """Mean matching score of K = 1 + noise · (independent standard Gaussian entries), or of a random projector plus such noise.

    - `n_tokens`: embeddings, independent and uniform on the unit sphere; with `gaussian`, of entries N(0, 1/d).
    - `rank`: that of the projector, full if None. `scale` may be inf: the probability that the diagonal is its row's largest.

    Given p = |P x|², a row's own score is N(p, noise²) and the others are N(0, p/d + noise²), taken to be independent; p follows
    Beta(r/2, (d − r)/2), or χ²_r/d with `gaussian`, integrated by quadrature. In error by at most 0.01 at d ≥ 100 (tests).
    As scale → 0 it is 1/n. Raises ValueError for a negative noise, or a rank outside 1 … width.
    """
    size, count = integer("width", width, 2), integer("n_tokens", n_tokens, 1)
    order = size if rank is None else integer("rank", rank, 1)
    if order > size:
        raise ValueError(f"rank is {order}; it must be at most width, which is {size}.")
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise is {noise}; it must be finite and at least 0.")
    nodes, weights = special.roots_legendre(24)
    if gaussian:
        parts = 2 * special.gammaincinv(order / 2, (1 + nodes) / 2) / size
    elif order < size:
        parts = special.betaincinv(order / 2, (size - order) / 2, (1 + nodes) / 2)
    else:
        parts, weights = np.ones(1), np.array([2.0])
    found = [softmax_win(scale, count - 1, part, noise, math.sqrt(part / size + noise**2)) for part in parts]
    return float(weights @ np.array(found) / 2)
