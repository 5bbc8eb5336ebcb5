"""A pool of worker processes that outlives its workers: killed workers, Ctrl-C, a killed parent.

Tasks go through the `concurrent.futures.Executor` interface, so that a cluster's executor can stand in for
the pool.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

MAXIMUM_BREAKS = 3
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
T = TypeVar("T")


def n_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkersDied(RuntimeError):
    """Worker processes died again and again in one task."""


def spread(
    function: Callable[[T], object], tasks: Sequence[T], executor: Executor, window: int
) -> Iterator[T]:
    """Call the function on each task, at most `window` at a time in their order; yield each task when it is
    done.

    An exception of the function is raised here, and tasks that have not started are cancelled.
    """
    waiting, running = list(reversed(tasks)), dict[Future[object], T]()
    try:
        while waiting or running:
            while waiting and len(running) < window:
                with _bare_children():
                    future = executor.submit(function, waiting[-1])
                running[future] = waiting.pop()
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(finished, key=lambda one: one.exception() is not None):
                future.result()
                yield running.pop(future)
    finally:
        for future in running:
            future.cancel()


def pooled(function: Callable[[T], object], tasks: Sequence[T], workers: int) -> Iterator[T]:
    """As `spread`, in spawned processes, with a new pool whenever a worker was killed.

    A killed worker breaks its whole pool. Only tasks under way can be to blame, at most one a worker; one
    that is under way in three breaks ends it all with WorkersDied. Stopped early, by Ctrl-C say, it ends its
    workers at once.
    """
    todo = dict(enumerate(tasks))
    number = {id(task): index for index, task in todo.items()}
    breaks = dict.fromkeys(todo, 0)
    while todo:
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
        clean = False
        try:
            for done in spread(function, list(todo.values()), pool, workers):
                del todo[number[id(done)]]
                yield done
            clean = True
        except BrokenExecutor:
            for index, task in list(todo.items())[:workers]:
                breaks[index] += 1
                if breaks[index] == MAXIMUM_BREAKS:
                    raise WorkersDied(
                        f"worker processes were killed {MAXIMUM_BREAKS} times during one task ({task}); "
                        "is there enough memory? Finished tasks are kept."
                    ) from None
        finally:
            if not clean:
                for process in list((getattr(pool, "_processes", None) or {}).values()):
                    process.terminate()
            pool.shutdown(wait=clean, cancel_futures=True)


def _start_worker() -> None:
    """In a new worker: watch the parent, since a worker whose parent was killed would wait for work forever."""
    parent = parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def _bare_children() -> Iterator[None]:
    """Processes spawned inside get one thread, leave Ctrl-C to this one, and do not execute its script again.

    Without the last, a script that calls `run` outside `if __name__ == "__main__"` would start itself in each
    worker. Ctrl-C is blocked, not ignored: a signal that comes meanwhile arrives right after.
    """
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    environment = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        main.update(hidden)
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
