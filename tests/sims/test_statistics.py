"""Intervals and thresholds against scipy's distributions and against their definition."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sims.statistics import equivalent_z, mean_interval, standard_error, worst_cell, z_threshold


@settings(deadline=None)
@given(values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), level=st.floats(0.01, 0.999))
def test_interval_is_students(values: list[float], level: float) -> None:
    mean, (low, high) = mean_interval(values, level)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert mean == pytest.approx(np.mean(values))
    assert (high - low) / 2 == pytest.approx(half, rel=1e-6, abs=1e-9)


def test_interval_of_five_seeds_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    hits = sum(
        low <= 0 <= high for _, (low, high) in (mean_interval(rng.standard_normal(5)) for _ in range(n))
    )
    assert abs(hits / n - 0.95) < 4.9 * math.sqrt(0.95 * 0.05 / n)


def test_one_value_has_no_interval() -> None:
    mean, interval = mean_interval([2.0])
    assert mean == 2.0
    assert np.isnan(interval).all()
    assert np.isnan(standard_error(np.ones((1, 3)))).tolist() == [True] * 3


@pytest.mark.parametrize("call", [lambda: mean_interval([]), lambda: mean_interval([1.0], 1.0), lambda: z_threshold(0),
                                  lambda: z_threshold(1, 0.0)])  # fmt: skip
def test_bad_input_is_refused(call) -> None:
    with pytest.raises(ValueError, match="must be"):
        call()


@settings(deadline=None)
@given(n=st.integers(1, 10**6), rate=st.floats(1e-9, 0.5))
def test_threshold_bounds_the_false_alarms(n: int, rate: float) -> None:
    assert 2 * n * stats.norm.sf(z_threshold(n, rate)) == pytest.approx(rate, rel=1e-6)


@settings(deadline=None)
@given(t=st.floats(0, 1e6), degrees=st.integers(1, 200))
def test_equivalent_z_has_the_tail_of_t(t: float, degrees: int) -> None:
    tail = stats.t.sf(t, degrees)
    if tail > 1e-290:
        assert stats.norm.logsf(equivalent_z(t, degrees)) == pytest.approx(math.log(tail), rel=1e-6, abs=1e-9)
    assert equivalent_z(t, degrees) <= max(t, 1e-9) * (1 + 1e-6)


def test_equivalent_z_grows_without_a_jump_where_the_tail_underflows() -> None:
    z = equivalent_z(np.linspace(0, 2000, 20001), 300)
    assert (np.diff(z) >= 0).all()
    assert z[-1] > 50
    assert np.diff(z, 2).max() < 0.05
    assert equivalent_z(np.inf, 3) == np.inf
    assert str(equivalent_z(0.0, 3)) == "0.0"


def test_worst_cell_is_the_one_whose_mean_is_worst() -> None:
    """A single wild seed does not make a cell the worst; dimensions may come in any order."""
    values = xr.DataArray(np.zeros((2, 3, 4)), dims=["size", "seed", "level"])
    values[1, :, 2] = [0.9, 1.0, 1.1]
    values[0, :, 1] = [-2.5, 3.5, 0.5]  # mean 0.5
    values[0, :, 3] = [-1.3, -1.2, -1.1]
    assert worst_cell(values, lambda means: means) == mean_interval([0.9, 1.0, 1.1])
    assert worst_cell(values, abs) == mean_interval([-1.3, -1.2, -1.1])
    assert worst_cell(values, lambda means: abs(means - 0.4)) == mean_interval([-1.3, -1.2, -1.1])
    assert worst_cell(xr.DataArray([1.0, 3.0], dims=["seed"]), abs) == mean_interval([1.0, 3.0])
