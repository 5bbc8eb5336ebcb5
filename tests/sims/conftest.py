"""A store and a folder of committed records of their own for each test, and the toy experiment."""

from pathlib import Path

import pytest

from sims import recorded

TOY = str(Path(__file__).with_name("toy_experiment.py"))


@pytest.fixture
def toy() -> str:
    """The toy experiment, named as a user names a file."""
    return TOY


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store; its folder of committed records is beside it."""
    monkeypatch.delenv("RECALL_AND_REASON_LIVE", raising=False)
    monkeypatch.setenv("RECALL_AND_REASON_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(recorded, "RECORDED_FOLDER", tmp_path / "recorded")
    return tmp_path / "results"
