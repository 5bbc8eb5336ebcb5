"""Every experiment at smoke scale, run once a session, whichever process asks first."""

import fcntl
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import sims
from sims import records
from sims.outcome import Outcome


@cache
def smoke_outcome(name: str) -> Outcome:
    """The outcome from the session's store (see tests/conftest.py); a second process waits for the first one's runs."""
    folder = records.results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with Path(folder, f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sims.run(name, "smoke", live=True, workers=1, progress=False)


@pytest.fixture(scope="session")
def smoke() -> Callable[[str], Outcome]:
    """Name of an experiment → its outcome at smoke scale."""
    return smoke_outcome
