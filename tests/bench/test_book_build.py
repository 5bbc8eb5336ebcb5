"""How long a build with nothing to do takes: the book promises thirty seconds on two cores."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    not (ROOT / "book/_build/html/index.html").is_file(), reason="the book is not built; run make book first"
)
def test_a_warm_build_is_quick() -> None:
    command = [sys.executable, "book/build.py"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    print(f"warm build: {seconds:.1f} s")
    assert "stale" not in done.stdout
    assert seconds < 30
