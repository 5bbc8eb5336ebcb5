"""What the memory's fast roads gain over the plain ones. Only ratios are printed, and no time is asserted: a busy machine proves
nothing. What is asserted is that both roads arrive at the same place."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, special

import sims
from sims.experiments import memory_flow
from sims.interventions.low_rank import Spectrum
from theory import associative_memory as theory
from theory.problems import AssociativeMemory


def seconds(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Shortest of some runs, and what the last one returned."""
    shortest, result = np.inf, None
    for _ in range(repeats):
        begin = time.perf_counter()
        result = work()
        shortest = min(shortest, time.perf_counter() - begin)
    return shortest, result


def report(what: str, slow: float, fast: float) -> None:
    print(f"\n{what}: {slow / fast:.3g} times as fast ({slow:.3g} s against {fast:.3g} s)")


def integrated(problem: AssociativeMemory, times: np.ndarray) -> np.ndarray:
    """Diagonal and noise logit by LSODA."""
    n, alpha = problem.n_tokens, problem.noise_level

    def rates(_: float, state: np.ndarray) -> list[float]:
        a, g = state
        shares = special.softmax([a, -(a + g) / (n - 1) + np.log(n - 1), g])
        return [(1 - alpha - shares[0]) / n, (alpha - shares[2]) / n]

    solved = integrate.solve_ivp(
        rates, (0, times[-1]), [0.0, 0.0], t_eval=times, method="LSODA", rtol=1e-10, atol=1e-12
    )
    return solved.y


@pytest.mark.parametrize("last", [1e3, 1e6])
def test_exact_flow_against_integration(last: float) -> None:
    problem, times = AssociativeMemory(8, 0.3), np.geomspace(0.1, last, 200)
    fast, flow = seconds(lambda: theory.gradient_flow(problem, times), 10)
    slow, logits = seconds(lambda: integrated(problem, times))
    np.testing.assert_allclose(logits, [flow.diagonal, flow.noise], rtol=0, atol=1e-6)
    report(f"exact flow over LSODA, 200 times up to {last:g}", slow, fast)


def test_exact_flow_against_fifty_digits() -> None:
    problem, times = AssociativeMemory(8, 0.3), np.geomspace(1, 1e6, 5)
    fast, flow = seconds(lambda: theory.gradient_flow(problem, times), 10)
    slow, states = seconds(lambda: [theory.exact_state(problem, one) for one in times], 1)
    np.testing.assert_allclose(flow.noise, [float(one.noise) for one in states], rtol=1e-8)
    report("float64 over fifty digits, 5 times", slow, fast)


def test_stacked_seeds_against_separate_ones() -> None:
    config = memory_flow.Config(final_time=10.0, n_probes=4, width=64)
    runs = [(config, seed) for seed in range(16)]
    together, stacked = seconds(lambda: memory_flow.simulate(runs, "cpu"), 2)
    apart, single = seconds(lambda: [memory_flow.simulate([run], "cpu")[0] for run in runs], 2)
    for one, other in zip(stacked, single, strict=True):
        np.testing.assert_allclose(one["noise"], other["noise"], rtol=0, atol=1e-5)
    report("16 stacked seeds over 16 separate ones, width 64", apart, together)


def test_one_cached_decomposition_against_one_a_cut() -> None:
    weights = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    counts = range(0, 256, 16)

    def cached() -> list[torch.Tensor]:
        spectrum = Spectrum(weights)
        return [spectrum.keep_top(count) for count in counts]

    fast, once = seconds(cached)
    slow, each = seconds(lambda: [Spectrum(weights).keep_top(count) for count in counts])
    assert all(torch.equal(a, b) for a, b in zip(once, each, strict=True))
    report("one decomposition over one a cut, 16 cuts of 256 × 256", slow, fast)


def test_two_workers_against_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(workers: int) -> sims.Outcome:
        monkeypatch.setenv("RECALL_AND_REASON_RESULTS", str(tmp_path / str(workers)))
        return sims.run("memory_flow", "smoke", live=True, seeds=4, workers=workers, progress=False)

    one, first = seconds(lambda: make(1), 1)
    two, second = seconds(lambda: make(2), 1)
    assert first.measured.identical(second.measured)
    report("two processes over one, 16 runs (starting them takes seconds)", one, two)
