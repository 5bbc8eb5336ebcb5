"""What `matching_mechanism` claims of the runs that solve the task, by hand: whether a token is overwritten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import sims
from sims import contract
from sims.experiments import matching_mechanism

W8 = next(one for one in matching_mechanism.CLAIMS if one.id == "W8")


def outcome(new: float, old: float, n_matching: int = 2, unsolved: bool = False) -> sims.Outcome:
    """Three runs, whose last layer matches what was written last and the raw query so well; perhaps one that solves nothing."""
    names = ["raw", *map(str, range(n_matching))]
    axes: dict[str, Any] = {"seed": [0, 1, 2], "matching": range(1, n_matching + 1)}
    axes |= {"query_buffer": names, "key_buffer": names}
    buffers = xr.DataArray(np.full([len(one) for one in axes.values()], 9.0), axes)  # all others are not read
    last = {"matching": n_matching, "key_buffer": "0"}
    for place, shift in enumerate((-0.01, 0.0, 0.01)):
        buffers.loc[{**last, "seed": place, "query_buffer": names[-1]}] = new + shift
        buffers.loc[{**last, "seed": place, "query_buffer": "raw"}] = old
    accuracy = xr.DataArray(np.ones((3, 1, 1)), {"seed": [0, 1, 2], "pairs": ["unseen"], "step": [10]})
    if unsolved:
        accuracy[2], buffers[2] = 0.7, -9.0
    measured = xr.Dataset({"buffers": buffers, "accuracy": accuracy})
    return sims.Outcome(contract.plan("matching_mechanism", "laptop"), measured)


@pytest.mark.parametrize(
    ("new", "old", "unsolved", "verdict"),
    [
        (0.4, -0.2, False, "holds"),
        (0.4, -0.2, True, "regime"),
        (0.4, 0.3, False, "fails"),  # the raw query matches as well
        (0.0, 0.4, False, "fails"),  # overwritten
    ],
)
def test_the_last_layer_matches_the_new_token_and_not_the_old(
    new: float, old: float, unsolved: bool, verdict: str
) -> None:
    found = W8.check(outcome(new, old, unsolved=unsolved))
    assert found.verdict == verdict
    if not unsolved:
        assert found.measured == pytest.approx(new - old)


def test_with_one_layer_that_matches_there_is_nothing_to_overwrite() -> None:
    found = W8.check(outcome(0.4, 0.4, n_matching=1))
    assert found.verdict == "not_measured"
    assert "nothing to overwrite" in found.note
