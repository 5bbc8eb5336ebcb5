"""The engine: equal results by every road, and nothing finished is lost, whatever is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sims import contract, engine
from sims.outcome import join
from sims.pool import WorkersDied

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Number of runs made so far, in any process."""
    path = tmp_path / "log"
    monkeypatch.setenv("TOY_LOG", str(path))
    return lambda: len(path.read_text().splitlines()) if path.exists() else 0


def n_records(store: Path) -> int:
    return len(list(store.rglob("*.nc")))


def test_a_run_has_every_cell_and_seed_in_its_place(toy: str) -> None:
    outcome = engine.run(toy, "smoke")
    assert outcome.measured.estimate.dims == ("seed", "centre", "n_numbers", "half")
    assert outcome.predicted.estimate.dims == ("centre", "n_numbers", "half")
    module = contract.experiment(toy).module
    for config in outcome.configs:
        for seed in (0, 1, 2):
            (alone,) = module.simulate([(config, seed)], "cpu")
            cell = outcome.measured.sel(seed=seed, centre=config.centre, n_numbers=config.n_numbers)
            assert np.array_equal(cell.estimate, alone.estimate)
    assert outcome.measured["count"].dtype == np.int32
    assert outcome.measured.large.dtype == bool
    assert outcome.agreement is not None
    assert outcome.agreement.holds()
    assert [one.verdict for one in outcome.claims] == ["holds"]
    assert "toy_experiment at smoke scale" in repr(outcome)
    assert "<table class='dataframe'>" in outcome._repr_html_()
    with pytest.raises(ValueError, match="figure is 'nothing'; toy_experiment has: none"):
        outcome.figure("nothing")


def test_equal_seeds_share_their_data_across_cells(toy: str) -> None:
    estimate = engine.run(toy, "smoke").measured.estimate
    assert np.allclose(estimate.sel(centre=2.0) - estimate.sel(centre=1.0), 1.0, atol=1e-12)


def test_runs_are_made_once_and_only_the_missing_ones(toy: str, log: Callable[[], int]) -> None:
    first = engine.run(toy, "smoke")
    assert (log(), first.provenance["n_computed"]) == (12, 12)
    again = engine.run(toy, "smoke")
    assert (log(), again.provenance["n_stored"]) == (12, 12)
    assert again.measured.identical(first.measured)
    engine.run(toy, "smoke", seeds=4)
    assert log() == 16
    engine.run(toy, "smoke", seeds=1, centre=7.0)
    assert log() == 18


def test_pool_executor_and_this_process_give_the_same(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for index, how in enumerate(({"workers": 1}, {"workers": 2}, {"executor": ThreadPoolExecutor(1)})):
        monkeypatch.setenv("RECALL_AND_REASON_RESULTS", str(tmp_path / str(index)))
        outcomes.append(engine.run(toy, "laptop", seeds=2, **how))
        assert outcomes[-1].provenance["n_computed"] == 6
    assert outcomes[0].measured.identical(outcomes[1].measured)
    assert outcomes[0].measured.identical(outcomes[2].measured)


def test_a_killed_worker_is_replaced(
    toy: str, log: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = tmp_path / "kill"
    trigger.touch()
    monkeypatch.setenv("TOY_KILL", str(trigger))
    outcome = engine.run(toy, "laptop", workers=2)
    assert not trigger.exists()
    assert outcome.measured.estimate.notnull().all()
    assert (
        12 <= log() <= 13
    )  # a run finished by the other worker at the moment of the break may be made twice


def test_a_run_that_always_kills_its_worker_is_given_up(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KILL_ALWAYS", "1")
    with pytest.raises(WorkersDied, match=r"killed 3 times during one task .*toy_experiment\.py, seed 0"):
        engine.run(toy, "laptop", workers=2)


def start(toy: str, pause: float, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "sims", "run", toy, "--workers", "2", "--set", f"pause={pause}", *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_records(store: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while n_records(store) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(group: int) -> bool:
    """Whether any process of a session is left that is no zombie."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == group and fields[0] != "Z":
            return True
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_command_goes_on_where_it_was(
    store: Path, toy: str, log: Callable[[], int], how: signal.Signals
) -> None:
    process = start(toy, 0.4)
    wait_for_records(store, 3)
    if how == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    output, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        assert errors.count("\n") == 1
        assert errors.startswith("interrupted: finished runs are kept")
    deadline = time.monotonic() + 30
    while alive(process.pid):  # no worker stays behind
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kept = n_records(store)
    assert 3 <= kept < 12
    made = log()
    outcome = engine.run(toy, "laptop", workers=1, pause=0.4)
    assert outcome.provenance["n_stored"] == kept
    assert log() - made == 12 - kept
    assert not output


def test_an_unguarded_script_may_use_the_pool(toy: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import sims\nprint(sims.run({toy!r}, 'laptop', workers=2, seeds=1).name)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "toy_experiment\n", "")


def test_on_a_gpu_a_stack_is_made_whole(store: Path, toy: str) -> None:
    plan = contract.plan(toy, "smoke")
    found: list = [None] * 12
    place = engine.records.Store(store)
    assert [len(task.seeds) for task in engine._tasks(plan, found, place, "cuda")] == [3] * 4
    found = [object()] * 12
    found[4] = None
    (task,) = engine._tasks(plan, found, place, "cuda")
    assert (task.seeds, task.settings[0]["n_numbers"]) == ((0, 1, 2), 200)
    assert [one.seeds for one in engine._tasks(plan, found, place, "cpu")] == [(1,)]


def test_shape_fields_make_larger_stacks(store: Path, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.experiment(toy).module, "SHAPE_FIELDS", ("n_numbers",), raising=False)
    tasks = engine._tasks(contract.plan(toy, "smoke"), [None] * 12, engine.records.Store(store), "cuda")
    assert [len(task.seeds) for task in tasks] == [6, 6]


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:99", "", 3])
def test_a_device_that_is_not_there_is_refused(toy: str, device: str) -> None:
    with pytest.raises(ValueError, match="device is"):
        engine.run(toy, "smoke", device=device)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_a_bad_number_of_workers_is_refused(toy: str, workers: int) -> None:
    with pytest.raises(ValueError, match="workers is"):
        engine.run(toy, "smoke", workers=workers)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda *_: [], "list with one dataset a run"),
        (lambda runs, _: [3 for _ in runs], "returned a int"),
        (
            lambda runs, _: [xr.Dataset({"centre": 1.0}) for _ in runs],
            "returned centre, which names an axis",
        ),
        (lambda runs, _: [xr.Dataset({"x": ("seed", [1.0])}) for _ in runs], "returned seed"),
    ],
)
def test_a_simulation_that_breaks_the_contract_is_told(
    toy: str, monkeypatch: pytest.MonkeyPatch, bad: Callable, words: str
) -> None:
    monkeypatch.setattr(contract.experiment(toy).module, "simulate", bad)
    with pytest.raises(ValueError, match=words):
        engine.run(toy, "smoke")


def test_code_that_changed_on_disk_is_not_recorded_as_the_old(store: Path, toy: str) -> None:
    plan = contract.plan(toy, "smoke")
    (task, *_) = engine._tasks(plan, [None] * 12, engine.records.Store(store), "cpu")
    changed = engine.Task(**{**vars(task), "code_digest": "0" * 64})
    with pytest.raises(ValueError, match="changed on disk"):
        engine.perform(changed)


def test_runs_of_different_shapes_are_joined_with_nan() -> None:
    datasets = [
        xr.Dataset({"x": ("step", np.arange(float(size)))}, {"step": np.arange(size)})
        for size in (2, 3, 4, 5)
    ]
    joined = join(datasets, {"width": (2, 4), "seed": (0, 1)})
    assert joined.x.dims == ("width", "seed", "step")
    assert joined.x.notnull().sum(["step"]).values.tolist() == [[2, 3], [4, 5]]
    assert joined.x.sel(width=4, seed=1).values.tolist() == [0, 1, 2, 3, 4]
