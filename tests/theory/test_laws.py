"""Late-time laws against the exact flow: constants, slopes, and how fast the difference goes away."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.associative_memory import (
    gradient_flow,
    late_flow,
    late_noise_without_component,
    late_time,
    probabilities,
    probabilities_without_noise,
)
from theory.problems import AssociativeMemory

CASES = [(2, 0.4), (2, 0.9), (3, 0.5), (4, 0.1), (8, 0.6), (64, 0.3), (5, 0.0), (1000, 0.5)]


@pytest.mark.parametrize(("n", "alpha"), CASES)
def test_the_error_falls_like_log_t_over_t(n: int, alpha: float) -> None:
    """|error| ≤ 3 ln(t)/t in units of late_time, from t = 1e2 to 1e6 late times, and no larger than 1e12 altogether."""
    problem = AssociativeMemory(n, alpha)
    times = np.geomspace(1e2, min(1e6, 1e12 / late_time(problem)), 9) * late_time(problem)
    flow, law = gradient_flow(problem, times), late_flow(problem, times)
    in_units = times / late_time(problem)
    # The margin's law leaves ln(1 + (n−1) r late/t…) ≈ n ln t/t in units of 2n/min(α, 1 − α): 3 is above every case here.
    allowed = 3 * np.log(times) / in_units + 1e-10
    for name in ("diagonal", "off_diagonal", "noise"):
        error = np.abs(getattr(flow, name) - getattr(law, name))
        assert np.all(error < allowed), (name, error / allowed)
        # It is that fast: a hundredfold time leaves less than a twentieth of the error.
        assert error[-1] < error[0] / 20 + 1e-10


@pytest.mark.parametrize(("n", "alpha"), CASES)
def test_constants_at_the_latest_times(n: int, alpha: float) -> None:
    """e^(a−b)/t and a − g at t = 1e12, where ln t/t is 3e-11 and the late time at most 7e3: 1e-6 is generous by 1e1."""
    problem = AssociativeMemory(n, alpha)
    flow = gradient_flow(problem, 1e12)
    margin = float(flow.diagonal - flow.off_diagonal)
    share = 1 if alpha == 0 else (1 - alpha) / 2
    assert math.exp(margin) / 1e12 == pytest.approx((n + 1) * share / n, rel=1e-6)
    if alpha > 0:
        assert float(flow.diagonal - flow.noise) == pytest.approx(math.log((1 - alpha) / alpha), abs=1e-6)
    else:
        assert float(flow.noise) == pytest.approx(float(flow.off_diagonal), rel=1e-12)


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.4), (3, 0.7), (8, 0.1), (64, 0.6)])
def test_slopes_in_log_t(n: int, alpha: float) -> None:
    """a and g rise by (n−1)/(n+1), b falls by 2/(n+1) for every unit of ln t: differences over t = 1e10 … 1e12."""
    flow = gradient_flow(AssociativeMemory(n, alpha), [1e10, 1e12])
    for logit, slope in ((flow.diagonal, n - 1), (flow.noise, n - 1), (flow.off_diagonal, -2)):
        # O(ln t/t) at 1e10, in units of the late time below 1e3: 2e-6.
        assert np.diff(logit)[0] / math.log(100) == pytest.approx(slope / (n + 1), rel=1e-5)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 100])
@pytest.mark.parametrize("alpha", [0.05, 0.4, 0.8])
def test_decay_of_the_noise_without_its_component(n: int, alpha: float) -> None:
    """Slope −(n−1)/n in logarithms, and the constant. Corrections: p itself, 1e-5 or less (t^(−1/2) × constant at n = 2)."""
    problem = AssociativeMemory(n, alpha)
    times = np.array([1e10, 1e12])
    exact = probabilities_without_noise(gradient_flow(problem, times)).noise
    law = late_noise_without_component(problem, times)
    # p = x/(1 + (n−1) x^… + x), x = e^{−r(n−1)/n}: off by about x ≤ 3e-5 at t = 1e10, and by (n−1)e^{−r} ~ 1e-7.
    np.testing.assert_allclose(exact, law, rtol=1e-4)
    slope = np.diff(np.log(exact))[0] / math.log(100)
    assert slope == pytest.approx(-(n - 1) / n, rel=1e-4)


def test_constant_of_the_paper_s_corner() -> None:
    """n = 2, α = 0.4: √t p → (3(1−α)/4)^(−1/2) = 1.4907…, off by p itself, 1.5e-6 at t = 1e12."""
    constant = (3 * (1 - 0.4) / 4) ** -0.5
    assert constant == pytest.approx(1.4907, abs=5e-5)
    problem = AssociativeMemory(2, 0.4)
    for time, off in ((1e8, 3e-4), (1e12, 3e-6)):
        measured = math.sqrt(time) * float(probabilities_without_noise(gradient_flow(problem, time)).noise)
        assert measured == pytest.approx(constant, rel=off)
    assert float(late_noise_without_component(problem, 1e12)) * 1e6 == pytest.approx(constant, rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 1000), alpha=st.floats(0.01, 0.99))
def test_full_model_keeps_the_noise_while_the_cut_one_loses_it(n: int, alpha: float) -> None:
    problem = AssociativeMemory(n, alpha)
    flow = gradient_flow(problem, 1e12)
    # 1e12 is 5e6 late times or more: the rest is 3e-6 × (n − 1)/n at most.
    assert float(probabilities(flow).noise) == pytest.approx(alpha, abs=1e-4)
    assert float(probabilities_without_noise(flow).noise) < 1e-3


def test_late_time() -> None:
    assert late_time(AssociativeMemory(3, 0.2)) == pytest.approx(30, rel=1e-15)
    assert late_time(AssociativeMemory(3, 0.8)) == pytest.approx(30, rel=1e-15)
    assert late_time(AssociativeMemory(3, 0.0)) == 6


def test_shapes_and_conservation() -> None:
    for times, shape in ((5.0, ()), ([5.0, 6.0], (2,))):
        for alpha in (0.0, 0.3):
            law = late_flow(AssociativeMemory(4, alpha), times)
            assert np.shape(law.diagonal) == np.shape(law.off_diagonal) == np.shape(law.noise) == shape
            # Rounding of numbers of size 1.
            np.testing.assert_allclose(law.diagonal + 3 * law.off_diagonal + law.noise, 0, atol=1e-14)
            assert np.shape(late_noise_without_component(law.problem, times)) == shape


@pytest.mark.parametrize("law", [late_flow, late_noise_without_component])
def test_bad_input(law: object) -> None:
    assert callable(law)
    with pytest.raises(ValueError, match=r"n_tokens is 1; .*n_tokens >= 2"):
        law(AssociativeMemory(1, 0.3), 1.0)
    with pytest.raises(ValueError, match=r"times contains 0; .*positive"):
        law(AssociativeMemory(2, 0.3), [0.0, 1.0])
    with pytest.raises(ValueError, match=r"times contains -1\.0"):
        law(AssociativeMemory(2, 0.3), [-1.0, 1.0])
