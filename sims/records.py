"""Records of finished runs: netCDF 3 files in a local store, each written whole or not at all.

The store is `.results/` in the checkout (in the working folder when the package is installed without one), or
the folder in $RECALL_AND_REASON_RESULTS. Nothing in it is ever unpickled, and nothing is ever deleted.
The records that are committed with the book are in `sims.recorded`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

CHECKOUT = Path(__file__).resolve().parent.parent
STORE_VARIABLE = "RECALL_AND_REASON_RESULTS"
DETAILS = "details"
INT32 = np.iinfo(np.int32)


def results_folder() -> Path:
    """The folder of the store; it need not exist yet."""
    if chosen := os.environ.get(STORE_VARIABLE):
        return Path(chosen).expanduser().resolve()
    return (CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path.cwd()) / ".results"


def identity(experiment: str, config: Any, seed: int, code_digest: str) -> str:
    """Name of a run (64 hexadecimal digits): equal for runs that must give the same result, and only for
    these.

    Only fields that differ from their defaults enter, so that a new field leaves old records valid.
    """
    changed = {
        one.name: getattr(config, one.name)
        for one in dataclasses.fields(config)
        if getattr(config, one.name) != one.default
    }
    key = {"experiment": experiment, "fields": changed, "seed": seed, "code": code_digest}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """A folder of records, one file a run, in one subfolder an experiment."""

    folder: Path

    def path(self, experiment: str, run: str) -> Path:
        """Where the run with this identity is, or would be."""
        return self.folder / experiment / f"{run}.nc"

    def prepare(self) -> None:
        """Make the folder and try it, before hours of work. Raises OSError, one sentence, when it is
        unwritable."""
        probe = self.folder / f".probe-{uuid.uuid4().hex}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OSError(
                f"results folder {self.folder} cannot be written ({error.strerror}); "
                f"set {STORE_VARIABLE} to a folder that can."
            ) from error

    def save(self, experiment: str, run: str, dataset: xr.Dataset, details: Mapping[str, Any]) -> None:
        """Write one finished run; after a crash at any moment the record is whole, or absent."""
        write_dataset(self.path(experiment, run), dataset, {**details, "identity": run})

    def load(self, experiment: str, run: str) -> tuple[xr.Dataset, dict[str, Any]] | None:
        """The record and its details, None when there is none.

        A corrupt file, or one that belongs elsewhere, is set aside beside its place as `….corrupt`, so that
        the run is made again and nothing is lost.
        """
        path = self.path(experiment, run)
        if not path.is_file():
            return None
        try:
            dataset, details = read_dataset(path)
            if details.get("identity") != run:
                raise ValueError(f"record {path} belongs to another run.")
        except ValueError:
            move_aside(path)
            return None
        return dataset, details

    def set_aside(self, experiment: str) -> list[str]:
        """Names of the files of an experiment that were found corrupt."""
        return sorted(path.name for path in (self.folder / experiment).glob("*.corrupt"))


def _storable(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with integers as int32, and everything that netCDF 3 would change refused. Raises
    ValueError."""
    stored = dataset.copy()
    for name, variable in dataset.variables.items():
        kind = variable.dtype.kind
        if kind in "iu":
            if variable.size and (variable.values.min() < INT32.min or variable.values.max() > INT32.max):
                raise ValueError(f"variable {name} holds integers beyond 32 bits; store them as floats.")
            stored[name] = variable.astype(np.int32)
        elif not (kind in "bU" or variable.dtype in (np.float32, np.float64) or _is_text(variable)):
            raise ValueError(f"variable {name} has dtype {variable.dtype}; a record holds float32, float64, "
                             "integers, booleans and texts.")  # fmt: skip
    return stored


def _is_text(variable: xr.Variable) -> bool:
    return variable.dtype.kind in "OT" and all(isinstance(item, str) for item in variable.values.flat)


def write_dataset(path: Path, dataset: xr.Dataset, details: Mapping[str, Any]) -> None:
    """Write a dataset beside its place, flush it to disk, and rename it.

    - `details`: plain data, kept as one JSON attribute, since netCDF 3 changes or refuses most types.

    Raises ValueError for data that netCDF 3 cannot hold, and OSError when the place cannot be written.
    """
    stored = _storable(dataset)
    details = {**details, "attributes": dict(dataset.attrs)}
    try:
        stored.attrs = {DETAILS: json.dumps(details, sort_keys=True)}
    except TypeError as error:
        raise ValueError(f"details of the record {path.name} are not plain data: {error}.") from error
    write_file(path, lambda partial: stored.to_netcdf(partial, engine="scipy", format="NETCDF3_64BIT"))


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all. Raises OSError when the place cannot be written."""
    write_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside its place, flush it to disk, and rename it: after a crash it is whole, or absent.

    Raises OSError, one sentence, when the place cannot be written.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            with partial.open("rb+") as written:
                os.fsync(written.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself reaches the disk
        finally:
            os.close(folder)
    except OSError as error:
        raise OSError(f"file {path} cannot be written ({error.strerror or error}).") from error


def move_aside(path: Path) -> None:
    """Keep a file that is corrupt or foreign beside its place, as `….corrupt`, so that the place is free."""
    path.replace(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.corrupt"))


def read_dataset(path: Path) -> tuple[xr.Dataset, dict[str, Any]]:
    """A record's dataset and its details. Raises ValueError, one sentence, when the file is no record of
    ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dataset = xr.load_dataset(path, engine="scipy", decode_times=False)
        details = json.loads(dataset.attrs[DETAILS])
        dataset.attrs = dict(details.pop("attributes"))
        for name, variable in dataset.variables.items():
            if variable.dtype.kind == "O" and _is_text(variable):
                dataset[name] = variable.astype(str)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged header makes scipy raise almost anything
        raise ValueError(f"record {path} is corrupt, or not a record of this project.") from error
    return dataset, details


def command() -> str:
    """The command line of this process, as one could type it again."""
    words = list(sys.argv)
    if words and Path(words[0]).name == "__main__.py" and Path(words[0]).parent.name == "sims":
        words = ["python", "-m", "sims", *words[1:]]
    return shlex.join(words)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of what a number can depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("recall-and-reason", "numpy", "scipy", "torch", "xarray"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@lru_cache(maxsize=1)
def revision() -> dict[str, Any]:
    """Git revision, and whether the code (sims, theory, pyproject.toml) differs from it; None outside a
    checkout."""

    def git(*arguments: str) -> str:
        asked = ["git", "-C", str(CHECKOUT), *arguments]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {
            "revision": commit,
            "dirty": bool(git("status", "--porcelain", "--", "sims", "theory", "pyproject.toml")),
        }
    except (OSError, subprocess.SubprocessError):
        return {"revision": None, "dirty": None}
