"""One thread, a store of results that lasts one session, and how much Hypothesis explores.

The store is made once by the process that starts the tests and handed down by the environment, so that with
several workers an experiment still runs once a session.
"""

from __future__ import annotations

import os
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

STORE = "RECALL_AND_REASON_RESULTS"

# The first call of torch or SymPy is slow, so a deadline would say nothing. In CI every run sees the same examples.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("explore"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI", "").lower() not in ("", "0", "false") else "explore")


def pytest_configure(config: pytest.Config) -> None:
    """Give the session a results folder of its own; workers inherit it."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="recall-and-reason-")
        before = {name: os.environ.get(name) for name in (STORE, "RECALL_AND_REASON_LIVE")}
        os.environ[STORE] = folder
        os.environ.pop("RECALL_AND_REASON_LIVE", None)

        def restore() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)

        config.add_cleanup(restore)
