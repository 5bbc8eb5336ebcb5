"""The one comparison of a measurement with a prediction, for claims, tests and `python -m sims check`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sims.statistics import equivalent_z, z_threshold

FLOAT32_RESOLUTION = 1e-6
"""Eight roundings of float32 (1.2e-7 each): storing a number and a few operations on it. What a long training
accumulates beyond that is a bias, which the experiment states."""


ROUNDING = 1e-13
"""Relative spread of seeds that float64 alone leaves; the rule below also counts ten times the resolution as rounding."""


@dataclass(frozen=True)
class Agreement:
    """The worst disagreement found.

    - `worst_z`: its distance in standard errors, as a normal z; `variable`, `where` (coordinate → value),
      `measured` (mean over seeds) and `predicted` say what it is.
    - `n`: numbers compared; `n_skipped`: entries without a prediction (NaN); `n_seeds`.
    """

    worst_z: float
    variable: str
    where: dict[str, Any]
    n: int
    measured: float
    predicted: float
    n_skipped: int = 0
    n_seeds: int = 1

    def holds(self, false_alarm: float = 1e-6) -> bool:
        """Whether chance alone would explain the worst z, at this rate of false alarms for all `n`
        together."""
        return self.worst_z <= z_threshold(self.n, false_alarm)

    def __str__(self) -> str:
        place = ", ".join(f"{name}={value}" for name, value in self.where.items())
        skipped = f", {self.n_skipped} without a prediction" if self.n_skipped else ""
        return (
            f"worst z {self.worst_z:.2f} (threshold {z_threshold(self.n):.2f}) in {self.variable}"
            f"{f' at {place}' if place else ''}: measured {self.measured:.6g}, predicted {self.predicted:.6g}"
            f"; {self.n} numbers, {self.n_seeds} seeds{skipped}"
        )


def compare(
    measured: xr.Dataset,
    predicted: xr.Dataset,
    *,
    bias: Mapping[str, float | xr.DataArray] | None = None,
    resolution: float = FLOAT32_RESOLUTION,
    variables: Iterable[str] | None = None,
    dim: str = "seed",
) -> Agreement:
    """Compare the mean over seeds with the prediction, number by number, and return the worst.

    z = max(0, |mean − predicted| − bias − resolution·max(|predicted|, 1)) / standard error, where Student's t
    for few seeds is turned into the normal z of equal probability.

    - `bias`: variable → what theory itself expects to be off by (same units; a number or an array), 0 by
      default.
    - `variables`: those to compare; by default all that both sides have.
    - An entry whose prediction is NaN is skipped. A measurement that is NaN where a prediction is not gives z
      = ∞.
    - Where the seeds differ by rounding only (or there is one seed) the run counts as deterministic: any
      excess gives z = ∞. (With two seeds Student's t would forgive almost anything.)

    Raises ValueError when there is nothing to compare, or the coordinates differ.
    """
    bias = bias or {}
    if dim not in measured.dims:
        raise ValueError(f"measured has no dimension {dim!r}; it has {sorted(map(str, measured.dims))}.")
    shared = [str(name) for name in predicted.data_vars if name in measured.data_vars]
    chosen = shared if variables is None else list(variables)
    if unknown := sorted({*chosen, *bias} - set(shared)):
        raise ValueError(
            f"variable is {unknown[0]!r}; measured and predicted share: {', '.join(shared) or 'none'}."
        )
    worst: Agreement | None = None
    n = n_skipped = 0
    for name in chosen:
        found = _worst(name, measured[name], predicted[name], bias.get(name, 0.0), resolution, dim)
        n, n_skipped = n + found.n, n_skipped + found.n_skipped
        if found.n and (worst is None or found.worst_z > worst.worst_z):
            worst = found
    if worst is None:
        raise ValueError(
            f"nothing to compare: no entry of {', '.join(chosen) or 'any variable'} has a prediction."
        )
    return Agreement(
        worst.worst_z,
        worst.variable,
        worst.where,
        n,
        worst.measured,
        worst.predicted,
        n_skipped,
        worst.n_seeds,
    )


def _worst(
    name: str, samples: xr.DataArray, theory: xr.DataArray, bias: Any, resolution: float, dim: str
) -> Agreement:
    """The worst entry of one variable."""
    if dim not in samples.dims:
        raise ValueError(f"variable {name} has no dimension {dim!r}, so it has no standard error.")
    rest = [size for size in samples.dims if size != dim]
    if set(rest) != set(theory.dims):
        raise ValueError(f"variable {name} has dimensions {sorted(map(str, rest))} measured and "
                         f"{sorted(map(str, theory.dims))} predicted; they must agree.")  # fmt: skip
    try:
        samples, theory = xr.align(samples, theory, join="exact")
    except ValueError:
        raise ValueError(f"variable {name} is predicted and measured at different coordinates.") from None
    data = samples.transpose(dim, *rest).values.astype(float)
    target = theory.transpose(*rest).values.astype(float)
    allowed = (bias.broadcast_like(theory).transpose(*rest) if isinstance(bias, xr.DataArray) else bias) + (
        resolution * np.maximum(np.abs(target), 1)
    )
    allowed = np.asarray(allowed, dtype=float)
    with np.errstate(invalid="ignore"):
        mean = data.mean(axis=0)
        error = data.std(axis=0, ddof=1) / np.sqrt(len(data)) if len(data) > 1 else np.zeros_like(mean)
        excess = np.where(mean == target, 0.0, np.abs(mean - target) - allowed)
    excess = np.where(np.isnan(excess), np.inf, np.maximum(excess, 0.0))
    scale = np.maximum(np.abs(np.where(np.isfinite(target), target, 0.0)), 1)
    spread = error * np.sqrt(len(data))
    certain = ~(
        spread > max(ROUNDING, 10 * resolution) * scale
    )  # rounding, or NaN: no chance to excuse an excess
    t = np.where(excess > 0, np.inf, 0.0)
    np.divide(excess, error, out=t, where=~certain & np.isfinite(excess))
    z = equivalent_z(t, len(data) - 1) if len(data) > 1 else t
    known = ~np.isnan(target)
    n = int(known.sum())
    if n == 0:
        return Agreement(0.0, name, {}, 0, float("nan"), float("nan"), int(target.size), len(data))
    flat = int(np.argmax(np.where(known, z, -1.0)))
    index = np.unravel_index(flat, target.shape)
    place = {}
    for axis, size in enumerate(rest):
        label = theory[size].values[index[axis]] if size in theory.coords else index[axis]
        place[str(size)] = label.item() if hasattr(label, "item") else label
    return Agreement(
        float(np.asarray(z)[index]), name, place, n, float(mean[index]), float(target[index]),
        int(target.size) - n, len(data),
    )  # fmt: skip
