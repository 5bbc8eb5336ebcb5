"""The comparison: calibrated under the truth, alarmed by an error, exact about biases, NaN and
determinism."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from sims.agreement import compare


def measured(values: np.ndarray) -> xr.Dataset:
    return xr.Dataset({"y": (("seed", "time"), values)}, {"time": np.arange(values.shape[1]) / 3})


def predicted(values: np.ndarray) -> xr.Dataset:
    return xr.Dataset({"y": ("time", values)}, {"time": np.arange(len(values)) / 3})


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), n_seeds=st.integers(2, 40), scale=st.floats(0.01, 100))
def test_true_predictions_agree_and_wrong_ones_do_not(seed: int, n_seeds: int, scale: float) -> None:
    noise = np.random.default_rng(seed).standard_normal((n_seeds, 50)) * scale
    truth = np.linspace(-1, 1, 50)
    assert compare(measured(truth + noise), predicted(truth)).holds()
    wrong = truth.copy()
    wrong[7] += 1e9 * scale * n_seeds
    found = compare(measured(truth + noise), predicted(wrong))
    assert found.where == {"time": 7 / 3}
    assert found.holds() == (n_seeds == 2 and found.worst_z < 6)


def test_z_is_calibrated() -> None:
    rng = np.random.default_rng(1)
    worst = [
        compare(measured(rng.standard_normal((4, 1))), predicted(np.zeros(1))).worst_z for _ in range(3000)
    ]
    share = np.mean(np.array(worst) > 1.959964)
    assert abs(share - 0.05) < 4.9 * math.sqrt(0.05 * 0.95 / 3000)


def test_a_bias_is_allowed_and_no_more() -> None:
    samples = measured(np.array([[1.0, 2.0], [1.2, 2.2], [1.1, 2.1]]))
    theory = predicted(np.array([1.0, 2.1]))
    assert compare(samples, theory, bias={"y": 0.2}).worst_z == 0
    assert compare(samples, theory, bias={"y": xr.DataArray([0.2, 0.0], dims="time")}).worst_z == 0
    assert compare(samples, theory, bias={"y": xr.DataArray([0.0, 0.2], dims="time")}).worst_z > 1
    assert compare(samples, theory, bias={"y": 0.02}).where == {"time": 0.0}


@pytest.mark.parametrize("rows", [1, 3])
def test_a_deterministic_run_must_be_within_the_resolution(rows: int) -> None:
    for offset, z in ((5e-7, 0.0), (1e-5, math.inf)):
        assert (
            compare(measured(np.full((rows, 2), 1 / 3 + offset)), predicted(np.full(2, 1 / 3))).worst_z == z
        )


def test_nan_is_skipped_in_theory_and_an_alarm_in_a_measurement() -> None:
    values = np.zeros((3, 2))
    found = compare(measured(values), predicted(np.array([np.nan, 0.0])))
    assert (found.worst_z, found.n, found.n_skipped) == (0.0, 1, 1)
    values[1, 1] = np.nan
    assert compare(measured(values), predicted(np.zeros(2))).worst_z == math.inf
    assert compare(measured(values), predicted(np.zeros(2))).where == {"time": 1 / 3}
    assert compare(measured(np.full((2, 1), np.inf)), predicted(np.array([np.inf]))).worst_z == 0
    assert compare(measured(np.zeros((2, 1))), predicted(np.array([np.inf]))).worst_z == math.inf


def test_what_cannot_be_compared_is_refused() -> None:
    samples, theory = measured(np.zeros((3, 2))), predicted(np.zeros(2))
    for bad, words in (
        (lambda: compare(samples, predicted(np.full(2, np.nan))), "nothing to compare"),
        (lambda: compare(samples, theory.rename(y="z")), "nothing to compare"),
        (lambda: compare(samples, theory, variables=["z"]), "variable is 'z'"),
        (lambda: compare(samples, theory, bias={"z": 1.0}), "variable is 'z'"),
        (lambda: compare(samples, theory.assign_coords(time=[0.0, 5.0])), "different coordinates"),
        (lambda: compare(samples, theory.rename(time="step")), "dimensions"),
        (lambda: compare(samples.isel(seed=0), theory), "no dimension 'seed'"),
    ):
        with pytest.raises(ValueError, match=words):
            bad()


def test_dimensions_may_come_in_any_order() -> None:
    rng = np.random.default_rng(0)
    truth = xr.Dataset({"y": (("a", "b"), rng.standard_normal((2, 3)))})
    samples = (truth + xr.DataArray(rng.standard_normal(5) * 1e-3, dims="seed")).transpose("b", "seed", "a")
    assert compare(samples, truth).holds()
    assert "worst z" in str(compare(samples, truth))
