"""Scores of kernels: definitions by loops, expectations against random matrices, what bounds them, and the scale."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims.statistics import z_threshold
from theory.matching import (
    alignment,
    diagonal_ratio,
    expected_matching_score,
    gaussian_scores,
    haar_matrix,
    kernel_score,
    matching_score,
    projector_absolute_entry,
    projector_scores,
    random_deviations,
    softmax_win,
)

THRESHOLD = z_threshold(100)
"""For all comparisons of this file together: fewer than a hundred."""


def unit_rows(generator: np.random.Generator, count: int, width: int) -> np.ndarray:
    rows = generator.normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def projector(generator: np.random.Generator, width: int, rank: int) -> np.ndarray:
    basis = np.linalg.qr(generator.normal(size=(width, rank)))[0]
    return basis @ basis.T


@given(seed=st.integers(0, 500), width=st.integers(2, 6), factor=st.floats(0.01, 100))
def test_definitions_entry_by_entry(seed: int, width: int, factor: float) -> None:
    matrix = np.random.default_rng(seed).normal(size=(width, width))
    pairs = [(i, j) for i in range(width) for j in range(width)]
    trace = sum(matrix[i, i] for i in range(width))
    absolute = sum(abs(matrix[pair]) for pair in pairs)
    off = [matrix[i, j] ** 2 for i, j in pairs if i != j]
    norm = math.sqrt(sum(matrix[pair] ** 2 for pair in pairs))
    for scaled in (matrix, factor * matrix):  # a positive factor changes none of them
        assert kernel_score(scaled) == pytest.approx(width * trace / absolute, rel=1e-12)
        assert diagonal_ratio(scaled) == pytest.approx(
            trace / width / math.sqrt(sum(off) / len(off)), rel=1e-12
        )
        assert alignment(scaled) == pytest.approx(trace / math.sqrt(width) / norm, rel=1e-12)
    stacked = np.stack([matrix, -matrix])
    assert alignment(stacked).tolist() == pytest.approx([alignment(matrix), -alignment(matrix)])


@given(seed=st.integers(0, 500), scale=st.floats(0.01, 50))
def test_matching_score_row_by_row(seed: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    matrix, rows = generator.normal(size=(4, 4)), generator.normal(size=(5, 4))
    table = scale * rows @ matrix @ rows.T
    total = 0.0
    for i in range(5):
        total += 1 / sum(math.exp(min(table[i, j] - table[i, i], 700)) for j in range(5))
    assert matching_score(matrix, rows, scale) == pytest.approx(total / 5, rel=1e-9)


# --- what bounds them


@given(seed=st.integers(0, 1000), width=st.integers(2, 9), data=st.data())
def test_rank_bounds_the_alignment_and_projectors_attain_it(
    seed: int, width: int, data: st.DataObject
) -> None:
    """prop-rank."""
    rank = data.draw(st.integers(1, width))
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(width, rank)) @ generator.normal(size=(rank, width))
    ceiling = math.sqrt(rank / width)
    assert abs(alignment(matrix)) <= ceiling + 1e-12
    found = 3 * projector(generator, width, rank)
    assert alignment(found) == pytest.approx(ceiling, rel=1e-12)
    nudged = found + 0.1 * matrix / np.linalg.norm(matrix)
    if np.linalg.matrix_rank(nudged) <= rank:
        assert alignment(nudged) < ceiling + 1e-12


def test_rank_does_not_bound_the_other_two() -> None:
    """A projector on coordinates is diagonal: kernel score d, although its rank is 64; in general position it is 10.7."""
    kernel = np.diag([1.0] * 64 + [0.0] * 336)
    assert kernel_score(kernel) == pytest.approx(400)
    with np.errstate(divide="ignore"):
        assert diagonal_ratio(kernel) == math.inf
    typical = projector_scores(400, 64)
    assert typical.kernel_score == pytest.approx(10.70, abs=0.005)
    assert typical.diagonal_ratio == pytest.approx(8.74, abs=0.005)
    assert typical.alignment == pytest.approx(0.4, rel=1e-12)


@given(seed=st.integers(0, 300), rank=st.integers(1, 4))
def test_rotation_mean_of_off_diagonal_squares(seed: int, rank: int) -> None:
    """The identity in the module, exact for the mean over all rotations of the plane (d = 2), and least for projectors."""
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(2, 2))
    angles = np.arange(16) * math.pi / 8  # trigonometric polynomials of degree 4: exact
    cosine, sine = np.cos(angles), np.sin(angles)
    turns = np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)
    flips = turns @ np.diag([1.0, -1.0])
    turned = np.concatenate([basis @ matrix @ np.swapaxes(basis, 1, 2) for basis in (turns, flips)])
    measured = np.mean(turned[:, 0, 1] ** 2 + turned[:, 1, 0] ** 2)
    assert 4 * measured == pytest.approx(off_diagonal_mean(matrix) * 4, rel=1e-10)
    wide = generator.normal(size=(9, rank)) @ generator.normal(size=(rank, 9))
    wide *= rank / np.trace(wide)
    assert off_diagonal_mean(wide) >= off_diagonal_mean(projector(generator, 9, rank)) - 1e-10


def off_diagonal_mean(matrix: np.ndarray) -> float:
    """Mean over bases of Σ_{i≠j} K_ij²."""
    width = len(matrix)
    squares = (width + 1) * np.sum(matrix**2) - np.trace(matrix @ matrix) - np.trace(matrix) ** 2
    return float(squares / (width + 2))


# --- kernels at hand


@pytest.mark.parametrize(("layer", "sheet"), [(1, 23.7), (2, 14.0)])
def test_gaussian_kernels(layer: int, sheet: float) -> None:
    """The sheet's values at d = 400 (A6), and averages of draws at d = 150."""
    assert gaussian_scores(layer, 400).kernel_score == pytest.approx(sheet, abs=0.1)
    limit = 400 / (1 + math.sqrt((2 if layer == 1 else 6) * 400 / math.pi))
    assert gaussian_scores(layer, 400).kernel_score == pytest.approx(limit, rel=1 / 400)
    generator, width = np.random.default_rng(10 + layer), 150
    draws = generator.normal(size=(40, layer, width, width)) / math.sqrt(width)
    wisharts = np.swapaxes(draws, -1, -2) @ draws
    kernels = wisharts[:, 0] if layer == 1 else wisharts[:, 1] @ wisharts[:, 0]
    law = gaussian_scores(layer, width)
    for found, predicted in zip(
        (kernel_score(kernels), diagonal_ratio(kernels), alignment(kernels)), law, strict=True
    ):
        error = found.std(ddof=1) / math.sqrt(40)
        # Entries are not quite Gaussian, and ratios of means are not means of ratios: 1/d of the value.
        assert abs(found.mean() - predicted) < THRESHOLD * error + predicted / width


def test_random_kernels() -> None:
    generator, width, n = np.random.default_rng(3), 60, 2000
    kernels = generator.normal(size=(n, width, width))
    law = random_deviations(width)
    for found, predicted in zip(
        (kernel_score(kernels), diagonal_ratio(kernels), alignment(kernels)), law, strict=True
    ):
        assert abs(found.mean()) < THRESHOLD * predicted / math.sqrt(n)
        # Standard deviation of a sample deviation 1/√(2n), bias 1/d.
        assert abs(found.std() / predicted - 1) < THRESHOLD / math.sqrt(2 * n) + 1 / width
    assert random_deviations(400).kernel_score == pytest.approx(0.063, abs=0.0005)


@pytest.mark.parametrize(("width", "rank"), [(12, 5), (7, 1), (20, 19)])
def test_moments_of_a_random_projector(width: int, rank: int) -> None:
    generator, n = np.random.default_rng(width), 4000
    draws = np.stack([projector(generator, width, rank)[0, :2] for _ in range(n)])
    square = rank * (width - rank) / (width * (width + 2) * (width - 1))
    for found, predicted in (
        (np.abs(draws[:, 1]), projector_absolute_entry(width, rank)),
        (draws[:, 1] ** 2, square),
        (draws[:, 0], rank / width),
        (draws[:, 0] ** 2, rank * (rank + 2) / (width * (width + 2))),
    ):
        assert abs(found.mean() - predicted) < THRESHOLD * found.std(ddof=1) / math.sqrt(n)


def test_scores_of_a_random_projector() -> None:
    generator, width, rank = np.random.default_rng(8), 200, 32
    kernels = np.stack([projector(generator, width, rank) for _ in range(30)])
    law = projector_scores(width, rank)
    assert np.ptp(alignment(kernels)) < 1e-12
    for found, predicted in zip((kernel_score(kernels), diagonal_ratio(kernels)), law[:2], strict=True):
        # Ratios of means: their bias is the squared relative fluctuation of sums over d entries, below 1/d.
        assert (
            abs(found.mean() - predicted) < THRESHOLD * found.std(ddof=1) / math.sqrt(30) + predicted / width
        )


# --- the matching score and its scale


def test_the_score_means_nothing_without_its_scale() -> None:
    """The same kernel, noise of rms 0.05 and 102 unit embeddings: 0.03 at scale 1, 1.00 at scale 20."""
    generator = np.random.default_rng(0)
    kernel = np.eye(400) + 0.05 * generator.normal(size=(400, 400))
    rows = unit_rows(generator, 102, 400)
    for scale, value in ((1.0, 0.0262), (20.0, 1.0)):
        assert matching_score(kernel, rows, scale) == pytest.approx(value, abs=5e-4)
        assert expected_matching_score(scale, 102, 400, noise=0.05) == pytest.approx(value, abs=5e-4)


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize(
    ("width", "rank", "noise"), [(100, None, 0.1), (200, None, 0.0), (200, 32, 0.02), (100, 25, 0.0)]
)
def test_expected_matching_score(width: int, rank: int | None, noise: float, gaussian: bool) -> None:
    for scale in (1.0, 5.0, 20.0, 100.0):
        generator = np.random.default_rng(int(scale) + width)
        found = []
        for _ in range(15):
            kernel = np.eye(width) if rank is None else projector(generator, width, rank)
            kernel = kernel + noise * generator.normal(size=(width, width))
            rows = generator.normal(size=(60, width)) / math.sqrt(width)
            if not gaussian:
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            found.append(float(matching_score(kernel, rows, scale)))
        predicted = expected_matching_score(scale, 60, width, noise, rank, gaussian)
        error = np.std(found, ddof=1) / math.sqrt(15)
        # 0.01 is the stated error of the formula; t with 14 degrees of freedom, so a wide multiple.
        assert abs(np.mean(found) - predicted) < 0.01 + 5 * error, (scale, np.mean(found), predicted)


def test_limits_of_the_scale() -> None:
    for rank, noise in ((None, 0.2), (16, 0.0)):
        assert expected_matching_score(1e-6, 50, 100, noise, rank) == pytest.approx(1 / 50, rel=1e-5)
        top = expected_matching_score(math.inf, 50, 100, noise, rank)
        assert 0.9 < top < 1
        # At scale 10⁵ Gumbel noise moves scores by 10⁻⁵, and a probability by that times a density below 1.
        assert expected_matching_score(1e5, 50, 100, noise, rank) == pytest.approx(top, abs=1e-5)
    scales = np.geomspace(0.1, 200, 12)
    values = [expected_matching_score(scale, 102, 400, rank=64) for scale in scales]
    assert np.all(np.diff(values) > 0)


def test_a_rank_lowers_the_score_at_a_scale() -> None:
    """A6: the projector of rank 64 in 400 dimensions has .19 or .20 at scale 20, 1.00 at scale 100."""
    assert expected_matching_score(20, 102, 400, rank=64) == pytest.approx(0.195, abs=0.002)
    assert expected_matching_score(100, 102, 400, rank=64) == pytest.approx(1.0, abs=0.002)
    assert expected_matching_score(20, 102, 400) > 0.9999


@given(
    scale=st.floats(0.1, 30),
    mean=st.floats(-1, 2),
    deviation=st.floats(0, 1),
    rival=st.floats(0, 1),
)
def test_two_scores_by_another_integral(scale: float, mean: float, deviation: float, rival: float) -> None:
    """One rival: the mean of a logistic function of one normal variable."""
    z = np.linspace(-10, 10, 20001)
    weight = np.exp(-(z**2) / 2)
    margin = scale * (mean + math.hypot(deviation, rival) * z)
    expected = weight @ (1 / (1 + np.exp(-margin))) / weight.sum()
    assert softmax_win(scale, 1, mean, deviation, rival) == pytest.approx(expected, abs=1e-7)


def test_no_rivals_and_equal_scores() -> None:
    assert softmax_win(3.0, 0, 0.2, 0.3, 0.1) == pytest.approx(1, abs=1e-8)
    assert softmax_win(3.0, 9, 0.0, 0.4, 0.4) == pytest.approx(0.1, abs=1e-8)
    assert softmax_win(math.inf, 9, 0.0, 0.4, 0.4) == pytest.approx(0.1, abs=1e-8)
    assert softmax_win(2.0, 4, 1.0, 0.0, 0.0) == pytest.approx(math.e**2 / (math.e**2 + 4), abs=1e-8)


def test_uniform_orthogonal_matrices() -> None:
    """E (trace)² = 1; without the signs QR gives another law."""
    generator = np.random.default_rng(4)
    traces = np.array([np.trace(haar_matrix(10, generator)) for _ in range(2000)])
    assert abs(traces.mean()) < THRESHOLD / math.sqrt(2000)
    assert abs((traces**2).mean() - 1) < THRESHOLD * math.sqrt(2 / 2000)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="rank is 4; it must be below width, which is 4"):
        projector_scores(4, 4)
    with pytest.raises(ValueError, match="scale is 0; it must be above 0"):
        softmax_win(0, 3, 1, 1, 1)
    with pytest.raises(ValueError, match="deviation is -1; it must be finite and at least 0"):
        softmax_win(1, 3, 1, -1, 1)
    with pytest.raises(ValueError, match="rank is 9; it must be at most width, which is 8"):
        expected_matching_score(1, 3, 8, rank=9)
    with pytest.raises(ValueError, match=r"noise is -0\.1; it must be finite and at least 0"):
        expected_matching_score(1, 3, 8, noise=-0.1)
