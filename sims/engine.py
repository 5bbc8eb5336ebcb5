"""The engine: looks up the runs of an experiment in the store, makes the missing ones, and joins them.

Each finished run is in the store before the next one starts, so that an interruption costs the runs under way
and no others; the same call goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from sims import contract, outcome, pool, recorded, records
from sims.contract import Plan
from sims.outcome import Outcome

LIVE_VARIABLE = "RECALL_AND_REASON_LIVE"


@dataclass(frozen=True)
class Task:
    """Runs to make together and store, told in plain data, so that any executor can carry it."""

    reference: str
    settings: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    identities: tuple[str, ...]
    device: str
    folder: str
    code_digest: str
    grid: tuple[str, ...]
    command: str

    def __str__(self) -> str:
        """The first run, for an error message."""
        return f"{self.reference}, seed {self.seeds[0]}, {self.settings[0]}"


def run(
    name: str,
    scale: str = "laptop",
    *,
    seeds: int | Sequence[int] | None = None,
    device: str = "cpu",
    workers: int | None = None,
    live: bool = False,
    progress: bool | None = None,
    executor: Executor | None = None,
    **fields: Any,
) -> Outcome:
    """Run an experiment, or find what was run already.

    - `name`: an experiment of sims/experiments, or the path of a file that holds one.
    - `scale`: "smoke" (seconds), "laptop" (minutes), "paper" (the paper's own size).
    - `seeds`: their number, or the seeds themselves. `fields`: settings that replace the scale's own; several
      values make an axis.
    - `device`: "cpu" (one run a task, spread over processes), "cuda" or "cuda:0" (equal shapes stacked in one
      call).
    - `workers`: processes; by default one a processor, and smoke scale stays in this one.
    - `live`: do not read the committed record; the local store still serves runs made by the same code.
    - `progress`: a bar with the remaining time; by default on a terminal only.
    - `executor`: a `concurrent.futures.Executor` that shares this file system, instead of a pool of our own.

    Raises ValueError for a name, scale, field, value or device that is not allowed, OSError for an unwritable
    store, `sims.pool.WorkersDied` when workers die repeatedly in one run.
    """
    plan = contract.plan(name, scale, seeds=seeds, overrides=fields)
    check_device(device)
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ValueError(f"workers is {workers!r}; it must be an integer, at least 1.")
    if not (live or fields or seeds is not None or os.environ.get(LIVE_VARIABLE, "") not in ("", "0")):
        committed = from_record(plan)
        if committed is not None:
            return committed
    store = records.Store(records.results_folder())
    store.prepare()
    aside = set(store.set_aside(plan.experiment.name))
    found = _look_up(plan, store)
    tasks = _tasks(plan, found, store, device)
    if tasks:
        _perform_all(tasks, plan, workers, executor, progress, n_stored=sum(one is not None for one in found))
    made = {identity for task in tasks for identity in task.identities}
    for index, identity in enumerate(_identities(plan)):
        if identity in made:
            found[index] = store.load(plan.experiment.name, identity)
    aside = set(store.set_aside(plan.experiment.name)) - aside
    return _joined(plan, found, len(made), sorted(aside))


def from_record(plan: Plan) -> Outcome | None:
    """The outcome of a plan from its committed record, None when there is none or its preset differs."""
    loaded = recorded.load_recorded(plan.experiment.name, plan.scale)
    if loaded is None or not plan.matches(loaded[1]["preset"]):
        return None
    dataset, details = loaded
    changed = details.get("code_digest") != plan.experiment.code_digest
    return Outcome(plan, dataset, {**details, "recorded": True, "code_changed": changed})


def from_store(plan: Plan) -> Outcome | None:
    """The outcome of a plan when the local store has every run of it, else None."""
    store = records.Store(records.results_folder())
    if count_stored(plan) < len(plan.runs):
        return None
    found = _look_up(plan, store)
    return _joined(plan, found) if all(one is not None for one in found) else None


def count_stored(plan: Plan) -> int:
    """How many runs of a plan the local store has."""
    store = records.Store(records.results_folder())
    return sum(store.path(plan.experiment.name, run).is_file() for run in _identities(plan))


def check_device(device: str) -> None:
    """Raises ValueError unless the device is the CPU or a GPU that is here."""
    kind, _, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    if device == "cpu":
        return
    if kind != "cuda" or (":" in device and not number.isdecimal()):
        raise ValueError(f"device is {device!r}; it must be cpu, cuda or cuda:0.")
    import torch

    if not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}; torch finds no GPU here, so it must be cpu.")
    if int(number or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {device!r}; the last GPU here is cuda:{torch.cuda.device_count() - 1}.")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside (two beside a busy core cost 6–80 times the time), as before afterwards."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)


def _identities(plan: Plan) -> list[str]:
    found = plan.experiment
    return [records.identity(found.name, config, seed, found.code_digest) for config, seed in plan.runs]


def _look_up(plan: Plan, store: records.Store) -> list[tuple[xr.Dataset, dict[str, Any]] | None]:
    return [store.load(plan.experiment.name, run) for run in _identities(plan)]


def _tasks(plan: Plan, found: Sequence[object], store: records.Store, device: str) -> list[Task]:
    """The missing runs: one a task on the CPU; on a GPU all runs of one shape, made again if one is missing.

    There the numbers of a run depend on what it is stacked with (batched products round differently), so that
    a stack is always made whole.
    """
    identities, runs = _identities(plan), plan.runs
    groups: dict[Any, list[int]] = {}
    for index, (config, _) in enumerate(runs):
        shape = tuple(getattr(config, name) for name in plan.experiment.shape_fields)
        groups.setdefault(index if device == "cpu" else shape, []).append(index)
    return [
        Task(
            reference=plan.experiment.reference,
            settings=tuple(asdict(runs[index][0]) for index in group),
            seeds=tuple(runs[index][1] for index in group),
            identities=tuple(identities[index] for index in group),
            device=device,
            folder=str(store.folder),
            code_digest=plan.experiment.code_digest,
            grid=tuple(plan.grid),
            command=records.command(),
        )
        for group in groups.values()
        if any(found[index] is None for index in group)
    ]


def perform(task: Task) -> None:
    """Make the runs of one task and store each. Runs in a worker process, or in this one."""
    found = contract.experiment(task.reference)
    if found.code_digest != task.code_digest:
        raise ValueError(f"code of {found.name} changed on disk since this process read it; start it again.")
    store = records.Store(Path(task.folder))
    runs = [(found.config_type(**one), seed) for one, seed in zip(task.settings, task.seeds, strict=True)]
    begin = time.perf_counter()
    with one_thread():
        datasets = found.module.simulate(runs, task.device)
    seconds = (time.perf_counter() - begin) / len(runs)
    if not isinstance(datasets, list) or len(datasets) != len(runs):
        raise ValueError(f"simulate of {found.name} must return a list with one dataset a run ({len(runs)}).")
    for (config, seed), run, dataset in zip(runs, task.identities, datasets, strict=True):
        if not isinstance(dataset, xr.Dataset):
            raise ValueError(
                f"simulate of {found.name} returned a {type(dataset).__name__}; it must be a Dataset."
            )
        if taken := sorted({"seed", *task.grid} & {*map(str, dataset.variables), *map(str, dataset.dims)}):
            raise ValueError(
                f"simulate of {found.name} returned {taken[0]}, which names an axis that is added later."
            )
        details = {
            "experiment": found.name,
            "config": asdict(config),
            "seed": seed,
            "device": device_name(task.device),
            "wall_seconds": seconds,
            "versions": records.versions(),
            "command": task.command,
        }
        store.save(found.name, run, dataset, details)


def device_name(device: str) -> str:
    """The device with its model, as records name it: "cpu", "cuda (NVIDIA H100)"."""
    if device == "cpu":
        return "cpu"
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def _joined(
    plan: Plan,
    found: Sequence[tuple[xr.Dataset, dict[str, Any]] | None],
    n_computed: int = 0,
    set_aside: Sequence[str] = (),
) -> Outcome:
    loaded = [one for one in found if one is not None]
    if len(loaded) < len(found):
        lost = len(found) - len(loaded)
        raise OSError(f"store lost {lost} records of {plan.experiment.name} while it ran; run again.")
    axes = {**plan.grid, "seed": plan.seeds}
    measured = outcome.join([dataset for dataset, _ in loaded], axes)
    measured = measured.transpose("seed", ...)
    devices = sorted({details["device"] for _, details in loaded})
    provenance = {
        **records.revision(),
        "device": ", ".join(devices),
        "wall_seconds": sum(details["wall_seconds"] for _, details in loaded),
        "versions": loaded[0][1]["versions"],
        "command": records.command(),
        "preset": plan.preset(),
        "code_digest": plan.experiment.code_digest,
        "recorded": False,
        "code_changed": None,
        "n_computed": n_computed,
        "n_stored": len(loaded) - n_computed,
        "set_aside": list(set_aside),
    }
    return Outcome(plan, measured, provenance)


def _perform_all(
    tasks: list[Task],
    plan: Plan,
    workers: int | None,
    executor: Executor | None,
    progress: bool | None,
    n_stored: int,
) -> None:
    from tqdm import tqdm

    shown = sys.stderr.isatty() if progress is None else progress
    on_gpu = tasks[0].device != "cpu"
    if workers is None:
        workers = 1 if plan.scale == "smoke" or on_gpu else pool.n_processors()
    total = len(plan.runs)
    with tqdm(
        total=total, initial=min(n_stored, total), desc=plan.experiment.name, unit="run", disable=not shown
    ) as bar:
        if executor is not None:
            for task in pool.spread(perform, tasks, executor, len(tasks)):
                bar.update(len(task.seeds))
        elif workers == 1 or len(tasks) == 1:
            for task in tasks:
                perform(task)
                bar.update(len(task.seeds))
        else:
            for task in pool.pooled(perform, tasks, min(workers, len(tasks))):
                bar.update(len(task.seeds))
