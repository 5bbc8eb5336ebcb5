"""Intervals and thresholds. Few seeds are the rule here, so that intervals are Student's, never
percentiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy import special


def standard_error(values: Any, axis: int = 0) -> Any:
    """Standard error of the mean along `axis`: sample deviation (n − 1) over √n; NaN for a single value."""
    array = np.asarray(values, dtype=float)
    count = array.shape[axis]
    if count < 2:
        return np.full(np.delete(array.shape, axis), np.nan)[()]
    return np.std(array, axis=axis, ddof=1) / math.sqrt(count)


def mean_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """Mean of independent values, and Student's t interval around it.

    - `values`: shape (n,), n ≥ 1. One value has no interval: (nan, nan).
    - `level`: coverage, in (0, 1).

    Raises ValueError when there is no value, or `level` is outside its range.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"values has shape {array.shape}; it must be (n,) with n ≥ 1.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be in (0, 1).")
    mean = float(np.mean(array))
    if array.size == 1:
        return mean, (math.nan, math.nan)
    half = float(special.stdtrit(array.size - 1, (1 + level) / 2) * standard_error(array))
    return mean, (mean - half, mean + half)


def worst_cell(
    values: xr.DataArray, badness: Callable[[np.ndarray], np.ndarray], dim: str = "seed"
) -> tuple[float, tuple[float, float]]:
    """Mean and interval over `dim` in the cell of all other dimensions whose mean is the worst.

    - `badness`: of the means of all cells, an array of the same shape; the largest is the worst.
    """
    cells = [str(name) for name in values.dims if name != dim]
    stacked = values.transpose(dim, *cells).values.reshape(values.sizes[dim], -1)
    return mean_interval(stacked[:, int(np.argmax(badness(stacked.mean(0))))])


def highest_cell(values: xr.DataArray, dim: str = "seed") -> tuple[float, tuple[float, float]]:
    """Mean and interval over `dim` in the cell whose mean is the largest."""
    return worst_cell(values, lambda means: means, dim)


def lowest_cell(values: xr.DataArray, dim: str = "seed") -> tuple[float, tuple[float, float]]:
    """Mean and interval over `dim` in the cell whose mean is the smallest."""
    return worst_cell(values, lambda means: -means, dim)


def z_threshold(n_comparisons: int, false_alarm: float = 1e-6) -> float:
    """The |z| that the largest of `n_comparisons` normal values exceeds with probability at most
    `false_alarm`.

    Bonferroni's bound, two-sided; it needs no independence. 4.9 for one comparison, 6.1 for a thousand.
    """
    if n_comparisons < 1:
        raise ValueError(f"n_comparisons is {n_comparisons}; it must be at least 1.")
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm is {false_alarm}; it must be in (0, 1).")
    return float(-special.ndtri(false_alarm / (2 * n_comparisons)))


def equivalent_z(t: Any, degrees_of_freedom: int) -> Any:
    """The normal z with the tail probability of a Student t ≥ 0, so that few seeds and many share one
    threshold.

    Where the tail underflows, Wallace's approximation continues it (relative error below 1e-3 there).
    """
    t = np.asarray(t, dtype=float)
    tail = special.stdtr(degrees_of_freedom, -t)
    with np.errstate(over="ignore"):
        wallace = np.sqrt(degrees_of_freedom * np.log1p(t * t / degrees_of_freedom))
    wallace = wallace * (8 * degrees_of_freedom + 1) / (8 * degrees_of_freedom + 3)
    known = -special.ndtri(np.maximum(tail, 1e-300))
    z = np.where(tail > 1e-300, known, np.maximum(known, wallace))
    return np.where(np.isinf(t), np.inf, np.abs(z))[()]  # abs: t = 0 gives −0
