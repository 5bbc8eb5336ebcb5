"""Predictions after surgery: against numpy's truncated SVD wherever a cut is defined, and undefined exactly where it is not."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.strategies import associative_memories, flow_times
from theory.associative_memory import (
    GradientFlow,
    Probabilities,
    component_order,
    gradient_flow,
    probabilities,
    probabilities_without_noise,
    truncated_probabilities,
)
from theory.associative_memory.surgery import component_logits, softmax_probabilities
from theory.problems import AssociativeMemory

small = associative_memories(max_tokens=7)
ROUNDING = 1e-11
"""numpy's SVD and a softmax of logits up to 30: 1e-15 × 30 × a few dozen, and 1e-12 for a flow of nearly equal components."""


def structured(flow: GradientFlow) -> np.ndarray:
    """The matrix of logits of a flow at one time."""
    n = flow.problem.n_tokens
    matrix = np.full((n + 1, n), float(flow.off_diagonal))
    np.fill_diagonal(matrix[:n], float(flow.diagonal))
    matrix[n] = float(flow.noise)
    return matrix


def assemble(n: int, correct: float, wrong: float, noise: float) -> np.ndarray:
    matrix = np.full((n + 1, n), wrong)
    np.fill_diagonal(matrix[:n], correct)
    matrix[n] = noise
    return matrix


def by_svd(matrix: np.ndarray, kept: slice) -> np.ndarray:
    """The components in a range of the spectrum, put together again."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, kept] * values[kept]) @ right[kept]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Columns, naively: the logits here are moderate."""
    weights = np.exp(logits - logits.max(axis=0))
    return weights / weights.sum(axis=0)


def assert_columns(found: Probabilities, logits: np.ndarray) -> None:
    """Every column of a softmax holds the three probabilities of `found` in the places of its key."""
    n, p = logits.shape[1], softmax(logits)
    for key in range(n):
        assert float(found.correct) == pytest.approx(p[key, key], abs=ROUNDING)
        assert float(found.noise) == pytest.approx(p[n, key], abs=ROUNDING)
        assert float(found.other) == pytest.approx(1 - p[key, key] - p[n, key], abs=ROUNDING)
        if n > 1:  # the wrong tokens share alike
            np.testing.assert_allclose(
                np.delete(p[:n, key], key), float(found.other) / (n - 1), atol=ROUNDING
            )


@settings(deadline=None, max_examples=80)
@given(problem=small, time=st.floats(-3, 8).map(lambda x: 10**x), data=st.data())
def test_cuts_against_numpy(problem: AssociativeMemory, time: float, data: st.DataObject) -> None:
    """Defined iff the spectrum has a gap at the cut; then both ways of cutting agree with the truncated SVD in every column."""
    n = problem.n_tokens
    flow = gradient_flow(problem, time)
    k = data.draw(st.integers(0, n), label="k")
    matrix = structured(flow)
    values = np.append(np.linalg.svd(matrix, compute_uv=False), 0.0)
    gap = 1.0 if k in (0, n) else (values[k - 1] - values[k]) / max(values[0], 1e-300)
    # 1e-9 of the larger of two neighbours is a tie; near it, and where numpy's own 1e-15 counts, either answer is right.
    assume(gap > 1e-6 or gap < 1e-11)
    kept, dropped = truncated_probabilities(flow, keep_top=k), truncated_probabilities(flow, drop_top=k)
    defined = k in (0, n) or gap > 1e-6
    assert bool(kept.defined) == bool(dropped.defined) == defined
    if defined:
        assert_columns(kept, by_svd(matrix, slice(0, k)))
        assert_columns(dropped, by_svd(matrix, slice(k, n)))
    else:
        for cut in (kept, dropped):
            assert np.isnan([cut.correct, cut.noise, cut.other]).all()


@settings(deadline=None, max_examples=60)
@given(problem=associative_memories(), times=flow_times(), data=st.data())
def test_flags_say_where_the_cut_falls(
    problem: AssociativeMemory, times: np.ndarray, data: st.DataObject
) -> None:
    n = problem.n_tokens
    flow = gradient_flow(problem, times)
    k = data.draw(st.one_of(st.sampled_from([0, 1, n - 1, n]), st.integers(0, n)), label="k")
    order = component_order(flow)
    silent = times == 0
    expected = silent | (k in (0, n)) | ((k == 1) & (order == 1)) | ((k == n - 1) & (order == -1))
    if (problem.n_tokens, problem.noise_level) == (1, 0.5):
        expected[:] = True
    for cut in (truncated_probabilities(flow, keep_top=k), truncated_probabilities(flow, drop_top=k)):
        np.testing.assert_array_equal(cut.defined, expected)
        total = cut.correct + cut.noise + cut.other
        np.testing.assert_array_equal(np.isnan(total), ~expected)
        # Three roundings of exp of a number near 0.
        np.testing.assert_allclose(total[expected], 1, rtol=0, atol=1e-14)
        assert np.all((cut.correct[expected] >= 0) & (cut.noise[expected] >= 0) & (cut.other[expected] >= 0))


def log_odds(found: Probabilities, n: int) -> np.ndarray:
    """Logits up to a shift: (correct, one wrong, noise) minus the correct one."""
    logs = [np.log(found.correct), np.log(found.other / (n - 1)), np.log(found.noise)]
    return np.array(logs) - logs[0]


@settings(deadline=None, max_examples=40)
@given(problem=associative_memories(min_tokens=2, max_tokens=50), times=flow_times(max_time=1e6))
def test_kept_and_dropped_logits_add_up(problem: AssociativeMemory, times: np.ndarray) -> None:
    n, flow = problem.n_tokens, gradient_flow(problem, times)
    whole = log_odds(probabilities(flow), n)
    for k in {0, 1, n - 1, n}:
        kept, dropped = truncated_probabilities(flow, keep_top=k), truncated_probabilities(flow, drop_top=k)
        total = (log_odds(kept, n) + log_odds(dropped, n))[:, kept.defined]
        # Logs of probabilities lose 1e-16 absolute each; logits up to 20 make that a few 1e-14.
        np.testing.assert_allclose(total, whole[:, kept.defined], rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(problem=associative_memories(), times=flow_times())
def test_all_and_nothing(problem: AssociativeMemory, times: np.ndarray) -> None:
    flow, n = gradient_flow(problem, times), problem.n_tokens
    full = probabilities(flow)
    for cut in (truncated_probabilities(flow, keep_top=n), truncated_probabilities(flow, drop_top=0)):
        # The two components are added up again: rounding of logits up to 30.
        np.testing.assert_allclose(cut.correct, full.correct, rtol=1e-12)
        np.testing.assert_allclose(cut.noise, full.noise, rtol=1e-12)
        np.testing.assert_allclose(cut.other, full.other, rtol=1e-12)
    for cut in (truncated_probabilities(flow, keep_top=0), truncated_probabilities(flow, drop_top=n)):
        np.testing.assert_allclose(cut.correct, 1 / (n + 1), rtol=1e-13)
        np.testing.assert_allclose(cut.noise, 1 / (n + 1), rtol=1e-13)
        np.testing.assert_allclose(cut.other, (n - 1) / (n + 1), rtol=1e-13)


@settings(deadline=None, max_examples=30)
@given(problem=associative_memories(), times=flow_times())
def test_full_probabilities_obey_the_rates(problem: AssociativeMemory, times: np.ndarray) -> None:
    """Sum one, and at late times the key and the noise keep their shares of the labels."""
    p = probabilities(gradient_flow(problem, times))
    assert p.defined.all()
    np.testing.assert_allclose(p.correct + p.noise + p.other, 1, rtol=0, atol=1e-14)
    if problem.n_tokens <= 100 and 0.01 <= problem.noise_level <= 0.99:
        late = probabilities(gradient_flow(problem, 1e10))
        # Late means t ≫ 2n/min(α, 1 − α) ≤ 2e4; the rest is of order 2e4 ln t/t ~ 5e-5.
        assert float(late.noise) == pytest.approx(problem.noise_level, abs=1e-4)
        assert float(late.correct) == pytest.approx(1 - problem.noise_level, abs=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 10**9),
    logits=st.tuples(*[st.floats(-300, 300)] * 3),
    shift=st.floats(-1e3, 1e3),
)
def test_softmax_does_not_see_a_shift(n: int, logits: tuple[float, ...], shift: float) -> None:
    before = softmax_probabilities(n, *(np.array(x) for x in logits))
    after = softmax_probabilities(n, *(np.array(x + shift) for x in logits))
    for name in ("correct", "noise", "other"):
        # x + shift is rounded to 1300 × 1e-16, which exp makes a relative error.
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-11, abs=1e-300)


@pytest.mark.parametrize(
    ("n", "alpha", "time", "k"),
    [(5, 0.6, 30.0, 1), (5, 0.1, 3.0, 4), (2, 0.8, 3.0, 1), (2, 0.3, 9.0, 1), (4, 0.3, 20.0, 3)],
)
def test_a_cut_is_idempotent_and_optimal(n: int, alpha: float, time: float, k: int) -> None:
    """Cutting twice changes nothing, and no other matrix of rank k is nearer (Eckart and Young)."""
    flow = gradient_flow(AssociativeMemory(n, alpha), time)
    assert truncated_probabilities(flow, keep_top=k).defined
    noise_kept = k == 1 and int(component_order(flow)) == 1
    kept = assemble(n, *(float(x) for x in component_logits(flow, signal=not noise_kept, noise=noise_kept)))
    matrix = structured(flow)
    assert np.linalg.matrix_rank(kept, tol=1e-9) == k
    np.testing.assert_allclose(by_svd(kept, slice(0, k)), kept, atol=1e-13)
    best = np.linalg.norm(matrix - kept)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert best == pytest.approx(np.linalg.norm(values[k:]), rel=1e-12)
    rng = np.random.default_rng(0)
    left = np.linalg.svd(kept, full_matrices=False)[0]
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(100):
            # Random column spaces near the kept one and far from it, each with its own best coefficients.
            space = np.linalg.qr(left[:, :k] + size * rng.standard_normal((n + 1, k)))[0]
            assert np.linalg.norm(matrix - space @ (space.T @ matrix)) >= best * (1 - 1e-12)


def test_inside_the_signal_space_the_answer_depends_on_the_basis() -> None:
    """Why those entries are NaN: two bases of the same matrix predict differently after the same cut."""
    flow = gradient_flow(AssociativeMemory(4, 0.1), 5.0)
    assert int(component_order(flow)) == -1
    assert not truncated_probabilities(flow, keep_top=2).defined
    margin = float(flow.diagonal - flow.off_diagonal)
    rng = np.random.default_rng(1)
    answers = []
    for _ in range(2):
        basis = np.linalg.qr(np.column_stack([np.ones(4), rng.standard_normal((4, 3))]))[0][:, 1:3]
        answers.append(softmax(np.vstack([margin * basis @ basis.T, np.zeros(4)]))[0, 0])
    assert abs(answers[0] - answers[1]) > 0.01


def test_removing_the_noise_component_alone() -> None:
    """Whatever its rank: the noise logit becomes 0 and the others keep their difference."""
    for n, alpha, time in ((2, 0.4, 50.0), (8, 0.6, 1e4), (8, 0.05, 3.0), (1, 0.3, 4.0)):
        flow = gradient_flow(AssociativeMemory(n, alpha), time)
        margin = float(flow.diagonal - flow.off_diagonal) if n > 1 else 0.0
        expected = assemble(n, margin * (1 - 1 / n), -margin / n, 0.0)
        assert_columns(probabilities_without_noise(flow), expected)


@settings(deadline=None, max_examples=40)
@given(problem=associative_memories(min_tokens=2), times=flow_times(min_time=1e-3))
def test_without_noise_is_the_defined_cut(problem: AssociativeMemory, times: np.ndarray) -> None:
    flow, n = gradient_flow(problem, times), problem.n_tokens
    without = probabilities_without_noise(flow).noise
    order = component_order(flow)
    keep, drop = truncated_probabilities(flow, keep_top=n - 1), truncated_probabilities(flow, drop_top=1)
    np.testing.assert_array_equal(keep.noise[order == -1], without[order == -1])
    np.testing.assert_array_equal(drop.noise[order == 1], without[order == 1])


def test_the_numbers_of_the_corner_and_of_eight_tokens() -> None:
    """seed0 0.6: n = 8, α = 0.6, t ~ 2e4: full .40, keep one .996 noise, drop one .997 correct. n = 2: truncation does it."""
    flow = gradient_flow(AssociativeMemory(8, 0.6), 2e4)
    # To the digits given there.
    assert float(probabilities(flow).correct) == pytest.approx(0.40, abs=5e-3)
    assert float(truncated_probabilities(flow, keep_top=1).noise) == pytest.approx(0.996, abs=1e-3)
    assert float(truncated_probabilities(flow, drop_top=1).correct) == pytest.approx(0.997, abs=1e-3)
    corner = gradient_flow(AssociativeMemory(2, 0.4), 1e6)
    assert float(truncated_probabilities(corner, keep_top=1).correct) > 0.99
    assert float(probabilities(corner).correct) == pytest.approx(0.6, abs=1e-3)


def test_shapes() -> None:
    for times, shape in ((3.0, ()), ([1.0, 2.0], (2,)), ([], (0,))):
        flow = gradient_flow(AssociativeMemory(3, 0.2), times)
        for found in (
            probabilities(flow),
            probabilities_without_noise(flow),
            truncated_probabilities(flow, keep_top=2),
        ):
            assert {np.shape(x) for x in (found.correct, found.noise, found.other, found.defined)} == {shape}


@pytest.mark.parametrize("name", ["keep_top", "drop_top"])
@pytest.mark.parametrize("value", [-1, 4, True, False, 1.0, "1", float("nan"), [1]])
def test_bad_counts_are_refused_by_name_and_value(name: str, value: object) -> None:
    flow = gradient_flow(AssociativeMemory(3, 0.2), 1.0)
    with pytest.raises(ValueError, match=rf"{name} is .*integer from 0 to n_tokens = 3") as caught:
        truncated_probabilities(flow, **{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("both", [{}, {"keep_top": 1, "drop_top": 1}, {"keep_top": 0, "drop_top": 0}])
def test_exactly_one_kind_of_cut(both: dict[str, int]) -> None:
    flow = gradient_flow(AssociativeMemory(3, 0.2), 1.0)
    with pytest.raises(ValueError, match=r"keep_top is .* and drop_top is .*exactly one"):
        truncated_probabilities(flow, **both)
