"""Truncation and component removal: what linear algebra says must hold, over shapes, stacks and types."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.interventions.low_rank import Spectrum, kept_rank

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))
ROUNDING = 1e-12
"""float64 SVD and product of matrices of norm below 30: a few hundred roundings of 1.1e-16."""


def matrix(*shape: int, key: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(key), dtype=torch.float64)


def rotation(size: int, key: int) -> torch.Tensor:
    return torch.linalg.qr(matrix(size, size, key=key))[0]


@st.composite
def cuts(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    """A matrix and a number of components."""
    shape = draw(SHAPES)
    return matrix(*shape, key=draw(st.integers(0, 10_000))), draw(st.integers(0, min(shape)))


@given(cuts())
def test_truncation_is_idempotent(cut: tuple[torch.Tensor, int]) -> None:
    whole, count = cut
    once = Spectrum(whole).keep_top(count)
    assert torch.linalg.matrix_rank(once, atol=1e-9) == count
    torch.testing.assert_close(Spectrum(once).keep_top(count), once, rtol=0, atol=ROUNDING)


@given(cuts())
def test_keeping_and_dropping_add_up(cut: tuple[torch.Tensor, int]) -> None:
    whole, count = cut
    spectrum = Spectrum(whole)
    torch.testing.assert_close(
        spectrum.keep_top(count) + spectrum.drop_top(count), whole, rtol=0, atol=ROUNDING
    )


@given(cuts(), st.integers(0, 10_000))
def test_truncation_is_optimal(cut: tuple[torch.Tensor, int], key: int) -> None:
    """Eckart–Young: the error is the norm of the dropped values, and no other matrix of that rank does better.

    The rivals are a random matrix of that rank, and a random nudge of the truncation that keeps its rank.
    """
    whole, count = cut
    spectrum = Spectrum(whole)
    kept = spectrum.keep_top(count)
    error = torch.linalg.matrix_norm(whole - kept)
    torch.testing.assert_close(error, spectrum.singular_values[count:].norm(), rtol=0, atol=ROUNDING)
    rows, columns = whole.shape
    left, right = matrix(rows, count, key=key), matrix(count, columns, key=key + 1)
    nudge = torch.eye(rows, dtype=torch.float64) + 0.03 * matrix(rows, rows, key=key + 2)
    for rival in (left @ right, nudge @ kept):
        assert torch.linalg.matrix_norm(whole - rival) >= error - ROUNDING


@given(SHAPES, st.sampled_from([torch.float32, torch.float64, torch.float16]), st.integers(0, 100))
def test_full_rank_is_the_same_matrix_bit_for_bit(
    shape: tuple[int, int], kind: torch.dtype, key: int
) -> None:
    whole = matrix(2, *shape, key=key).to(kind)
    spectrum = Spectrum(whole)
    assert torch.equal(spectrum.keep_top(spectrum.rank), whole)
    assert torch.equal(spectrum.drop_top(0), whole)
    assert not spectrum.keep_top(0).any()
    assert not spectrum.drop_top(spectrum.rank).any()
    assert spectrum.keep_top(1).dtype == kind


@given(cuts(), st.integers(0, 100))
def test_cuts_follow_a_change_of_basis(cut: tuple[torch.Tensor, int], key: int) -> None:
    whole, count = cut
    left, right = rotation(whole.shape[0], key), rotation(whole.shape[1], key + 1)
    turned, spectrum = Spectrum(left @ whole @ right), Spectrum(whole)
    torch.testing.assert_close(turned.singular_values, spectrum.singular_values, rtol=0, atol=ROUNDING)
    gaps = spectrum.singular_values.diff().abs()
    if 0 < count < spectrum.rank and gaps[count - 1] < 1e-3:
        return  # values this close let the vectors turn by rounding/gap
    torch.testing.assert_close(
        turned.keep_top(count), left @ spectrum.keep_top(count) @ right, rtol=0, atol=1e3 * ROUNDING
    )


@given(SHAPES, st.integers(1, 4), st.integers(0, 100))
def test_a_stack_is_cut_one_by_one(shape: tuple[int, int], size: int, key: int) -> None:
    stack = matrix(size, *shape, key=key)
    together = Spectrum(stack)
    for count in range(together.rank + 1):
        for place in range(size):
            alone = Spectrum(stack[place])
            torch.testing.assert_close(
                together.keep_top(count)[place], alone.keep_top(count), rtol=0, atol=ROUNDING
            )
            torch.testing.assert_close(
                together.drop_top(count)[place], alone.drop_top(count), rtol=0, atol=ROUNDING
            )


@given(SHAPES, st.integers(0, 3), st.integers(0, 100), st.data())
def test_dropped_components_are_left_out_of_the_sum(
    shape: tuple[int, int], size: int, key: int, data: st.DataObject
) -> None:
    """Against a sum of components one by one; the same places of every matrix, or each matrix's own; some named twice."""
    whole = matrix(*([size] if size else []), *shape, key=key)
    spectrum = Spectrum(whole)
    count = data.draw(st.integers(1, 4))
    index = st.integers(0, spectrum.rank - 1)
    rows = data.draw(st.lists(st.lists(index, min_size=count, max_size=count), min_size=1, max_size=1))
    own = bool(size) and data.draw(st.booleans())
    if own:
        rows = [[data.draw(index) for _ in range(count)] for _ in range(size)]
    found = spectrum.drop(torch.tensor(rows if own else rows[0]))
    assert torch.equal(found, spectrum.drop(rows if own else rows[0]))  # type: ignore[arg-type]
    for place, one in enumerate(whole if size else [whole]):
        left, values, right = torch.linalg.svd(one, full_matrices=False)
        expected = torch.zeros_like(one)
        for component, value in enumerate(values):
            if component not in rows[place if own else 0]:
                expected += value * torch.outer(left[:, component], right[component])
        torch.testing.assert_close(found[place] if size else found, expected, rtol=0, atol=ROUNDING)


@given(cuts(), st.sampled_from([torch.float32, torch.float64]))
def test_dropping_the_first_components_is_dropping_the_top(
    cut: tuple[torch.Tensor, int], kind: torch.dtype
) -> None:
    whole, count = cut
    spectrum = Spectrum(whole.to(kind))
    found = spectrum.drop(range(count))
    assert found.dtype == kind
    # Zeros are added, at most in another order; in float32 both are rounded at the end (6e-8, entries below 8).
    tolerance = ROUNDING if kind == torch.float64 else 1e-6
    torch.testing.assert_close(found, spectrum.drop_top(count), rtol=0, atol=tolerance)
    assert not spectrum.drop(range(spectrum.rank)).any()


@pytest.mark.parametrize("places", [[], torch.empty(0, dtype=torch.int64), torch.empty(2, 0)])
def test_no_dropped_component_is_the_same_matrix_bit_for_bit(places: object) -> None:
    whole = matrix(2, 3, 4, key=0).half()
    assert torch.equal(Spectrum(whole).drop(places), whole)  # type: ignore[arg-type]


def test_one_decomposition_serves_all_cuts_and_none_serves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **kwargs: calls.append(1) or svd(*args, **kwargs))
    spectrum = Spectrum(matrix(3, 6, 4, key=0))
    spectrum.keep_top(4)
    spectrum.drop_top(0)
    spectrum.drop([])
    assert len(calls) == 0
    for count in range(5):
        spectrum.keep_top(count)
        spectrum.drop_top(count)
        spectrum.drop([count % 4])
    assert spectrum.left.shape == (3, 6, 4)
    assert spectrum.right.shape == (3, 4, 4)
    assert spectrum.singular_values.shape == (3, 4)
    assert len(calls) == 1


@given(
    SHAPES, st.integers(0, 3), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 100), st.data()
)
def test_rising_truncations_are_those_of_each_count(
    shape: tuple[int, int], size: int, kind: torch.dtype, key: int, data: st.DataObject
) -> None:
    """Some counts twice; the full one gives the matrix itself, whatever came before."""
    whole = matrix(*([size] if size else []), *shape, key=key).to(kind)
    spectrum = Spectrum(whole)
    counts = sorted(data.draw(st.lists(st.integers(0, spectrum.rank), max_size=6)))
    found = list(spectrum.keep_each(counts))
    assert len(found) == len(counts)
    # The same terms, added in another order; in float32 both are rounded at the end (6e-8, entries below 8).
    tolerance = ROUNDING if kind == torch.float64 else 1e-6
    for count, kept in zip(counts, found, strict=True):
        assert kept.dtype == kind
        torch.testing.assert_close(kept, spectrum.keep_top(count), rtol=0, atol=tolerance)
        if count == spectrum.rank:
            assert torch.equal(kept, whole)
        if count == 0:
            assert not kept.any()


def test_rising_truncations_do_not_share_memory() -> None:
    whole = matrix(4, 4, key=3)
    found = list(Spectrum(whole).keep_each([1, 1, 2, 3]))
    expected = [one.clone() for one in found]
    found[2].add_(1)
    for place in (0, 1, 3):
        assert torch.equal(found[place], expected[place])


def test_rising_truncations_share_one_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **kwargs: calls.append(1) or svd(*args, **kwargs))
    assert len(list(Spectrum(matrix(3, 6, 4, key=0)).keep_each(range(5)))) == 5
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("counts", "answer"),
    [
        ([2, 1], "counts are [2, 1]; they must rise."),
        ([0, 3, 3, 2], "counts are [0, 3, 3, 2]; they must rise."),
        ([1, 4], "keep_each is 4; it must be an integer from 0 to 3."),
        ([-1, 2], "keep_each is -1; it must be an integer from 0 to 3."),
        ([0.5], "keep_each is 0.5; it must be an integer from 0 to 3."),
    ],
)
def test_counts_that_fall_are_told(counts: list[int], answer: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        list(Spectrum(matrix(3, 5, key=0)).keep_each(counts))


def test_the_original_is_left_as_it_was() -> None:
    whole = matrix(5, 5, key=1).requires_grad_()
    copy = whole.detach().clone()
    cut = Spectrum(whole).keep_top(2)
    assert torch.equal(whole.detach(), copy)
    assert not cut.requires_grad


def test_float16_is_decomposed_in_float64() -> None:
    whole = matrix(6, 6, key=2).half()
    expected = torch.linalg.svdvals(whole.double())
    torch.testing.assert_close(Spectrum(whole).singular_values, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("fraction", "shape", "expected"),
    [
        (0.29, (100, 100), 29),  # 0.29 × 100 is 28.999999999999996 in float64
        (0.57, (100, 300), 57),
        (0.07, (100, 100), 7),
        (0.299, (100, 100), 29),
        (1.0, (7, 5), 5),
        (0.0, (7, 5), 0),
        (0.5, (3, 5, 9), 2),
        (0.01, (4096, 16384), 40),
    ],
)
def test_kept_rank_rounds_down_but_not_by_rounding(
    fraction: float, shape: tuple[int, ...], expected: int
) -> None:
    assert kept_rank(fraction, shape) == expected


@given(st.integers(1, 500), st.integers(0, 500))
def test_kept_rank_undoes_a_ratio(size: int, count: int) -> None:
    count = min(count, size)
    assert kept_rank(count / size, (size, size)) == count


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_bad_fractions_are_told(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"rank_fraction is {fraction}; it must be in \[0, 1\]"):
        kept_rank(fraction, (3, 3))


@pytest.mark.parametrize("name", ["keep_top", "drop_top"])
@pytest.mark.parametrize("count", [-1, 4, 1.5, True])
def test_bad_counts_are_told(name: str, count: object) -> None:
    cut = getattr(Spectrum(matrix(3, 5, key=0)), name)
    with pytest.raises(ValueError, match=rf"{name} is {count}; it must be an integer from 0 to 3"):
        cut(count)


@pytest.mark.parametrize(
    ("places", "answer"),
    [
        ([3], "places are [3]; each must be an integer from 0 to 2."),
        ([0, -1], "places are [0, -1]; each must be an integer from 0 to 2."),
        ([1.5], "places are [1.5]; each must be an integer from 0 to 2."),
        ([True, False, True], "places are [True, False, True]; each must be an integer from 0 to 2."),
        ([[0], [1], [3]], "places are [[0], [1], [3]]; each must be an integer from 0 to 2."),
        ([[0], [1]], "places have shape (2, 1); it must be (n,) or (3, n)."),
        ([[[0]]], "places have shape (1, 1, 1); it must be (n,) or (3, n)."),
        (torch.tensor(1), "places have shape (); it must be (n,) or (3, n)."),
    ],
)
def test_bad_places_are_told(places: object, answer: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        Spectrum(matrix(3, 3, 5, key=0)).drop(places)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^places have shape \(1, 1\); it must be \(n,\)\.$"):
        Spectrum(matrix(3, 5, key=0)).drop([[0]])  # type: ignore[list-item]
