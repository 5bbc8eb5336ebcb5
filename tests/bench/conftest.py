"""Benchmarks run when they are asked for, as `make bench` does, and not with the tests."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Ignore this folder unless an argument names it, or a file in it."""
    start = config.invocation_params.dir
    asked = [(start / argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(one == HERE or HERE in one.parents for one in asked) else True
