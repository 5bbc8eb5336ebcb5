"""Records that are committed with the book: one file an experiment and scale, at most 1 MB, in book/recorded.

Each carries the preset that it answers, where it comes from, and a smoke replay: a few numbers that anyone
can compute again in seconds, which tell whether today's code still does what the record says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sims import contract, records

if TYPE_CHECKING:
    from sims.outcome import Outcome

RECORDED_FOLDER = records.CHECKOUT / "book" / "recorded"
MAXIMUM_BYTES = 1_000_000
REPLAY_TOLERANCE = 1e-3
"""Of the root mean square of a variable. Other processors order float32 sums differently, which training
amplifies to about 1e-5 at smoke scale; a changed model moves more than one part in a thousand."""


def record_path(name: str, scale: str) -> Path:
    """Where the committed record of an experiment at a scale is, or would be."""
    return RECORDED_FOLDER / f"{name}-{scale}.nc"


def _compact(variable: xr.DataArray) -> xr.DataArray:
    """float64 as float32, unless numbers leave its range (its relative rounding is 6e-8)."""
    if variable.dtype != np.float64:
        return variable
    with np.errstate(over="ignore", under="ignore"):
        small = variable.astype(np.float32)
    return small if np.allclose(small, variable, rtol=1e-6, atol=0, equal_nan=True) else variable


def write_recorded(outcome: Outcome) -> Path:
    """Write the committed record of an outcome that was computed at a scale's own preset; returns its path.

    Variables are stored as float32 where their range allows; coordinates stay float64. Raises ValueError when
    the outcome is not of the preset, comes from a record itself, or would take more than 1 MB.
    """
    name, scale = outcome.name, outcome.scale
    if outcome.provenance["recorded"]:
        raise ValueError(
            f"outcome of {name} at {scale} scale comes from a committed record; run it live to record it."
        )
    if not outcome.plan.is_preset:
        raise ValueError(
            f"outcome of {name} has its own fields or seeds; only the preset of {scale} is recorded."
        )
    small = outcome.measured.map(_compact, keep_attrs=True)
    details = {
        **outcome.provenance,
        "experiment": name,
        "scale": scale,
        "replay": replay(outcome.plan.experiment.reference),
    }
    path = record_path(name, scale)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / path.name
        records.write_dataset(trial, small, details)
        size = trial.stat().st_size
    if size > MAXIMUM_BYTES:
        largest = sorted(
            ((variable.nbytes, str(key)) for key, variable in small.data_vars.items()), reverse=True
        )[:3]
        listed = ", ".join(f"{key} {taken / 1e6:.2f} MB" for taken, key in largest)
        raise ValueError(
            f"record of {name} at {scale} scale would take {size / 1e6:.2f} MB, and 1 MB may be committed; "
            f"keep fewer times, grid values or seeds of the largest variables: {listed}."
        )
    records.write_dataset(path, small, details)
    return path


def load_recorded(name: str, scale: str) -> tuple[xr.Dataset, dict[str, Any]] | None:
    """The committed dataset (floats as float64) and its details, None when there is none.

    Raises ValueError when the file is corrupt, or belongs to another experiment or scale.
    """
    path = record_path(name, scale)
    if not path.is_file():
        return None
    dataset, details = records.read_dataset(path)
    if (details.get("experiment"), details.get("scale")) != (name, scale) or "preset" not in details:
        raise ValueError(f"record {path} does not hold {name} at {scale} scale.")
    widened = {key: one.astype(float) for key, one in dataset.data_vars.items() if one.dtype == np.float32}
    return dataset.assign(widened), details


def replay(reference: str) -> dict[str, dict[str, float | None]]:
    """Variable → mean and tolerance, of the first smoke run with seed 0, on a CPU with one thread; never
    stored.

    The mean is over finite entries, None when there is none.
    """
    from sims.engine import one_thread

    found = contract.experiment(reference)
    config = contract.plan(reference, "smoke").configs[0]
    with one_thread():
        (dataset,) = found.module.simulate([(config, 0)], "cpu")
    numbers: dict[str, dict[str, float | None]] = {}
    for name, variable in dataset.data_vars.items():
        if variable.dtype.kind not in "fiub":
            continue
        values = variable.values.astype(float)
        values = values[np.isfinite(values)]
        mean = float(values.mean()) if values.size else None
        scale = float(np.sqrt(np.mean(values**2))) if values.size else 0.0
        numbers[str(name)] = {"mean": mean, "tolerance": REPLAY_TOLERANCE * scale}
    return numbers


def replay_agrees(name: str, scale: str, numbers: Mapping[str, Any] | None = None) -> bool:
    """Whether today's code reproduces the replay of a committed record, each mean within its recorded
    tolerance.

    - `numbers`: a replay made already (`replay(name)`), so that several records of an experiment share one.

    Raises ValueError when there is no such record. Costs one smoke run.
    """
    loaded = load_recorded(Path(name).stem, scale)
    if loaded is None:
        raise ValueError(f"record {record_path(Path(name).stem, scale)} does not exist.")
    then = loaded[1]["replay"]
    now = replay(name) if numbers is None else numbers
    if set(now) != set(then):
        return False
    return all(_close(now[key]["mean"], one["mean"], one["tolerance"]) for key, one in then.items())


def _close(now: float | None, then: float | None, tolerance: float | None) -> bool:
    if now is None or then is None:
        return now is then
    return abs(now - then) <= (tolerance or 0.0)
