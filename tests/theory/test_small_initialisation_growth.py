"""Early growth of a matching layer: gradients against enumeration, growth against integration, moments against quadrature."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from theory import small_initialisation as theory
from theory.small_initialisation import MatchingLayer
from theory.symbols import symbol

SIZES = [(2, 2), (3, 2), (4, 3), (4, 4), (5, 2)]
PROBABILITIES = (0.5, 0.3, 0.15, 0.05)


def layer(n: int = 4, m: int = 2, **fields: object) -> MatchingLayer:
    settings = {"width": 8, "head_width": 3, "init_exponent": 0.75, "score_scale": 0.7} | fields
    return MatchingLayer(n, m, **settings)  # type: ignore[arg-type]


def expected_loss(one: MatchingLayer, kernel: np.ndarray) -> float:
    """Over every query and every set of other keys, with nothing of the package."""
    n, m, total = one.n_tokens, one.n_slots, 0.0
    for query, chance in enumerate(one.query_probabilities or [1 / n] * n):
        sets = list(itertools.combinations([token for token in range(n) if token != query], m - 1))
        for others in sets:
            scores = one.score_scale * kernel[query, [query, *others]]
            total += chance / len(sets) * (np.log(np.exp(scores).sum()) - scores[0])
    return total


def numeric_slope(one: MatchingLayer, kernel: np.ndarray) -> np.ndarray:
    """Minus the gradient by central differences of step 1e-5: error 1e-10 by the third derivative, 1e-11 by rounding."""
    found = np.zeros_like(kernel)
    for place in np.ndindex(kernel.shape):
        step = np.zeros_like(kernel)
        step[place] = 1e-5
        found[place] = (expected_loss(one, kernel - step) - expected_loss(one, kernel + step)) / 2e-5
    return found


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_the_direction_at_zero_is_the_gradient_over_all_contexts(n: int, m: int) -> None:
    one = layer(n, m)
    assert np.allclose(one.direction, numeric_slope(one, np.zeros((n, n))), rtol=0, atol=1e-9)
    assert np.allclose(one.direction, one.rate * (np.eye(n) - 1 / n))


@pytest.mark.parametrize("m", [2, 3, 4])
def test_the_direction_with_unequal_frequencies(m: int) -> None:
    one = layer(4, m, query_probabilities=PROBABILITIES)
    assert np.allclose(one.direction, numeric_slope(one, np.zeros((4, 4))), rtol=0, atol=1e-9)
    left, rates, right = one.modes
    assert np.allclose(left @ np.diag(rates) @ right.T, one.direction)
    assert rates[-1] == 0
    assert np.allclose(abs(right[:, -1]), 0.5)  # uniform: a shift of rows, which the softmax does not see


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("asked", [(), PROBABILITIES])
def test_slopes_anywhere(m: int, asked: tuple[float, ...]) -> None:
    one = layer(4, m, query_probabilities=asked)
    kernel = np.random.default_rng(1).normal(0, 2, (4, 4))
    assert np.allclose(theory.slopes(one, kernel), numeric_slope(one, kernel), rtol=0, atol=1e-8)
    assert np.allclose(theory.slopes(one, np.zeros((4, 4))), one.direction)


@pytest.mark.parametrize(("n", "m"), [(3, 2), (4, 2), (4, 3), (4, 4)])
def test_copying_rate_by_enumeration(n: int, m: int) -> None:
    """Minus the gradient in C of the cross-entropy of uniform attention, over all ordered values and right slots."""
    found = np.zeros((n, n))
    contexts = list(itertools.permutations(range(n), m))
    for values in contexts:
        mean = np.bincount(values, minlength=n) / m
        for answer in values:
            found += np.outer(np.eye(n)[answer] - 1 / n, mean) / (len(contexts) * m)
    assert np.allclose(found, theory.copying_rate(n, m) * (np.eye(n) - 1 / n), atol=1e-15)


def test_margins_are_the_first_order_of_the_loss() -> None:
    one = layer(4, 3, query_probabilities=PROBABILITIES)
    kernel = 1e-6 * np.random.default_rng(2).normal(size=(4, 4))
    slope = (math.log(3) - expected_loss(one, kernel)) / (1 - 1 / 3)
    assert slope == pytest.approx(float(theory.margins(one, kernel)), rel=1e-4)  # rounding 1e-16/1e-6


# --- growth


@given(asked=st.sampled_from([(), PROBABILITIES]), time=st.floats(0.1, 3.0), key=st.integers(0, 100))
@settings(max_examples=15)
def test_grown_factors_solve_the_frozen_flow(asked: tuple[float, ...], time: float, key: int) -> None:
    one = layer(query_probabilities=asked)
    query, keys = (part[0] for part in theory.draw_starts(one, 1, np.random.default_rng(key)))
    final = time / one.rate

    def pace(_: float, state: np.ndarray) -> np.ndarray:
        first, second = state.reshape(2, 3, 4)
        return np.concatenate([(second @ one.direction.T).ravel(), (first @ one.direction).ravel()])

    start = np.concatenate([query.ravel(), keys.ravel()])
    ends = integrate.solve_ivp(pace, (0, final), start, rtol=1e-10, atol=1e-13).y[:, -1].reshape(2, 3, 4)
    grown = theory.grown_factors(one, query, keys, theory.flow_growth(one.modes.rates, final))
    assert np.allclose(grown, ends, rtol=1e-7, atol=1e-9 * np.abs(ends).max())  # the integrator's tolerance


@given(
    asked=st.sampled_from([(), PROBABILITIES]),
    momentum=st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    steps=st.integers(0, 30),
)
def test_descent_growth_is_the_loop(asked: tuple[float, ...], momentum: float, steps: int) -> None:
    one = layer(query_probabilities=asked)
    query, key = (part[0] for part in theory.draw_starts(one, 1, np.random.default_rng(3)))
    rate = 0.05 * (1 - momentum) / one.rate
    growth = theory.descent_growth(one.modes.rates, steps, rate, momentum)
    grown = theory.grown_factors(one, query, key, growth)
    push = [np.zeros_like(query), np.zeros_like(key)]
    for _ in range(steps):
        push = [momentum * push[0] + key @ one.direction.T, momentum * push[1] + query @ one.direction]
        query, key = query + rate * push[0], key + rate * push[1]
    assert np.allclose(grown, [query, key], rtol=1e-9, atol=1e-12)


def test_a_double_root_of_the_momentum_recursion() -> None:
    """1 + μ + η r = 2 √μ needs a shrinking mode: r η = −(1 − √μ)²."""
    shrink = (1 - math.sqrt(0.25)) ** 2
    differences = theory.descent_growth(1.0, 5, shrink, 0.25).differences
    place, velocity = 1.0, 0.0
    for _ in range(5):
        velocity = 0.25 * velocity - shrink * place
        place += velocity
    assert float(differences) == pytest.approx(place, rel=1e-6)  # the root is moved by 1e-9


def test_small_steps_are_the_flow() -> None:
    flow = theory.flow_growth(1.0, 2.0)
    for momentum in (0.0, 0.9):
        steps = theory.descent_growth(1.0, 200_000, 1e-5 * (1 - momentum), momentum)
        assert float(steps.signal) == pytest.approx(float(flow.signal), rel=1e-3)  # 2 t h (1 + μ)/(1 − μ)


# --- moments, exactly: polynomials of degree four by Gauss-Hermite quadrature, which is exact with three nodes a Gaussian


def gaussian_grid(n_variables: int, std: float) -> tuple[np.ndarray, np.ndarray]:
    """All combinations of the nodes 0 and ±√3 std, and their weights."""
    nodes, weights = std * np.array([-math.sqrt(3), 0, math.sqrt(3)]), np.array([1, 4, 1]) / 6
    places = np.array(list(itertools.product(range(3), repeat=n_variables)))
    return nodes[places], weights[places].prod(1)


@pytest.mark.parametrize(
    ("n", "heads", "asked"),
    [(2, 1, ()), (2, 2, ()), (3, 1, ()), (2, 2, (0.8, 0.2)), (3, 1, (0.5, 0.3, 0.2))],
)
def test_moments_are_exact(n: int, heads: int, asked: tuple[float, ...]) -> None:
    one = layer(n, 2, head_width=heads, query_probabilities=asked)
    growth = theory.flow_growth(one.modes.rates, 0.4 / one.rate)
    grid, weights = gaussian_grid(2 * heads * n, one.init_std)
    starts = grid.reshape(-1, 2, heads, n)
    query, key = theory.grown_factors(one, starts[:, 0], starts[:, 1], growth)
    kernels = query.swapaxes(1, 2) @ key
    seen = kernels - kernels.mean(-1, keepdims=True)
    square, own = (seen**2).sum((1, 2)), np.einsum("kii->ki", seen)
    found = theory.moments(one, growth)
    frequencies = np.array(one.query_probabilities or (1 / n,) * n)
    margin = one.score_scale * (own * frequencies).sum(1) * n / (n - 1)
    assert float(found.margin) == pytest.approx(weights @ margin, rel=1e-9)
    assert float(found.square) == pytest.approx(weights @ square, rel=1e-9)
    cosine = weights @ own.sum(1) / math.sqrt((n - 1) * (weights @ square))
    assert float(found.alignment) == pytest.approx(cosine, rel=1e-9)
    first = np.einsum("i,kij,j->k", one.modes.left[:, 0], kernels, one.modes.right[:, 0])
    share = (weights @ first**2) / (weights @ square)
    assert float(found.leading_share) == pytest.approx(share, rel=1e-9)
    if not asked:
        off = weights @ (square - (own**2).sum(1)) / (n * (n - 1))
        found_off = theory.off_diagonal(one, theory.flow_growth(one.rate, 0.4 / one.rate))
        assert float(found_off) == pytest.approx(one.score_scale * math.sqrt(off), rel=1e-9)


def test_moments_of_a_larger_layer_by_samples() -> None:
    """4000 starts: the mean square within five standard errors."""
    one = layer(6, 3, width=16, head_width=5, query_probabilities=theory.zipf_probabilities(6))
    growth = theory.flow_growth(one.modes.rates, 0.5 / one.rate)
    starts = theory.draw_starts(one, 4000, np.random.default_rng(4))
    query, key = theory.grown_factors(one, starts[0], starts[1], growth)
    kernels = query.swapaxes(1, 2) @ key
    seen = kernels - kernels.mean(-1, keepdims=True)
    found = theory.moments(one, growth)
    for samples, expected in (
        ((seen**2).sum((1, 2)), found.square),
        (theory.margins(one, kernels), found.margin),
    ):
        assert abs(samples.mean() - expected) < 5 * samples.std() / math.sqrt(4000)


def test_the_ceiling_is_that_of_a_wishart_matrix() -> None:
    """Mean trace and mean square of SᵀS from 20000 draws, to five standard errors of either (relative 1 %)."""
    draws = np.random.default_rng(5).normal(size=(20_000, 3, 4))
    wishart = draws.swapaxes(1, 2) @ draws
    trace, square = np.einsum("kii->k", wishart).mean(), (wishart**2).sum((1, 2)).mean()
    assert trace / math.sqrt(4 * square) == pytest.approx(theory.wishart_ceiling(4, 3), rel=0.01)


def test_alignment_rises_from_zero_to_its_ceiling_whatever_the_exponent() -> None:
    cosines = []
    for gamma in (0.0, 0.5, 1.0):
        one = layer(6, 2, init_exponent=gamma)
        times = np.linspace(0, 8, 30)[:, None] / one.rate
        cosines.append(theory.moments(one, theory.flow_growth(one.modes.rates, times)).alignment)
    assert np.allclose(cosines[0], cosines[1:])
    assert cosines[0][0] == 0
    assert np.all(np.diff(cosines[0]) > 0)
    assert cosines[0][-1] == pytest.approx(theory.wishart_ceiling(5, 3), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.2, 0.5, 1.0])
def test_escape_time_and_alignment_are_those_of_the_moments(gamma: float) -> None:
    one = layer(6, 2, width=32, init_exponent=gamma)
    at = theory.moments(one, theory.flow_growth(one.modes.rates, theory.escape_time(one, 0.3)))
    assert float(at.margin) == pytest.approx(0.3)
    assert float(at.alignment) == pytest.approx(theory.escape_alignment(one, 0.3))


def test_the_wait_is_linear_in_the_exponent_and_the_ceiling_is_reached() -> None:
    waits = [theory.escape_time(layer(6, width=64, init_exponent=gamma), 0.5) for gamma in (0.75, 1.0)]
    slope = (waits[1] - waits[0]) / (0.25 * math.log(64)) * layer(6).rate
    assert slope == pytest.approx(1.0, rel=1e-4)  # asinh x = ln 2x + 1/(4x²), x > 30
    one = layer(6, width=64, init_exponent=0.5)
    left, ceiling = theory.escape_alignment(one, 0.5), theory.wishart_ceiling(5, 3)
    signal = 0.5 / one.start_scale
    assert 0 < 1 - left / ceiling < (5 + signal + 1) / (2 * 9 * signal**2)


def test_a_smaller_start_makes_growth_closer_to_rank_one_only_with_unequal_frequencies() -> None:
    def share(gamma: float, asked: tuple[float, ...]) -> float:
        one = layer(8, 2, width=64, init_exponent=gamma, query_probabilities=asked, head_width=16)
        times = np.linspace(0, 12, 4000)[:, None] / one.rate
        at = theory.moments(one, theory.flow_growth(one.modes.rates, times))
        return float(at.leading_share[np.argmax(at.margin >= 0.3)])

    zipf = theory.zipf_probabilities(8)
    rising = [share(gamma, zipf) for gamma in (0.25, 0.5, 0.75, 1.0)]
    assert np.all(np.diff(rising) > 0.01)
    assert rising[-1] > 0.9
    assert max(share(gamma, ()) for gamma in (0.5, 1.0)) < 1.5 / 7


def test_the_bound_on_the_linear_softmax_holds() -> None:
    rng = np.random.default_rng(6)
    for m in (2, 5):
        one = layer(5, m)
        for size in (0.01, 0.1, 0.5):
            kernel = rng.uniform(-size, size, (5, 5)) / one.score_scale
            error = np.abs(theory.slopes(one, kernel) / one.direction - 1).max()
            assert 0.05 * size < error <= theory.linear_error(size)


# --- SymPy


def test_every_step_of_the_proofs_is_an_identity() -> None:
    assert set(theory.residuals().values()) == {0}


def test_derivation_is_what_the_functions_compute() -> None:
    n, m, width, heads, gamma, scale, margin = 7, 3, 40, 9, 0.6, 0.3, 0.8
    one = MatchingLayer(n, m, width, heads, gamma, scale)
    time, values = 0.7 / one.rate, 5
    growth = theory.flow_growth(one.modes.rates, time)
    at = theory.moments(one, growth)
    copying = theory.copying_rate(n, m)
    waiting = theory.waiting_growth(one, values, one.init_std, time)
    decoder = theory.FreshDecoder(n + 4, 11, width, values, gamma, "pre")
    known = {
        "n": n, "m": m, "d": width, "d_k": heads, r"\gamma": gamma, r"\chi": scale, "z": margin, "t": time, "T": 11,
        r"\sigma": one.init_std, "c": one.rate, "c_V": copying, r"\Sigma": float(theory.flow_growth(one.rate, time).signal),
        "d_v": values, "V": n + 4, "x_0": decoder.first_stream, "z_0": 0.05,
    }  # fmt: skip
    post = theory.FreshDecoder(n + 4, 11, width, values, gamma, "post")
    level = float(theory.unfactored_margin(one, time))
    expected = {
        "init_std": one.init_std,
        "matching_rate": one.rate,
        "copying_rate": copying,
        "signal": known[r"\Sigma"],
        "margin": float(at.margin),
        "square": float(at.square),
        "alignment": float(at.alignment),
        "ceiling": theory.wishart_ceiling(n - 1, heads),
        "escape_time": theory.escape_time(one, margin),
        "escape_time_small_start": theory.escape_time(one, margin),
        "waiting": float(waiting.signal),
        "first_stream": decoder.first_stream,
        "residual_ratio_post": theory.residual_ratio(post, 11),
        "residual_ratio_pre": theory.residual_ratio(decoder, 11),
    }
    known = {symbol(name): value for name, value in known.items()}
    equations = theory.derivation()
    for name, value in expected.items():
        loose = name == "escape_time_small_start"  # leaves out 1/(4 x²), x = margin/start
        found = float(equations[name].rhs.subs(known).evalf())
        assert found == pytest.approx(value, rel=0.02 if loose else 1e-9), name
    left, right = (
        float(side.subs(known | {symbol("z"): level}))
        for side in (equations["unfactored"].lhs, equations["unfactored"].rhs)
    )
    assert left == pytest.approx(right, rel=1e-9)
    whole = equations["balanced"].rhs.subs(known).evalf() / (2 * one.rate * m)
    assert float(whole) == pytest.approx(float(theory.balanced_time(one, 0.05, margin)), rel=1e-9)
    assert set(equations) == {*expected, "unfactored", "balanced"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"m": 1}, r"n_slots is 1; it must be at least 2\."),
        ({"m": 5}, r"n_slots is 5; it must be at most n_tokens = 4"),
        ({"width": 3}, r"width is 3; it must be at least 4\."),
        ({"head_width": 0}, r"head_width is 0"),
        ({"init_exponent": math.inf}, r"init_exponent is inf; it must be finite\."),
        ({"init_exponent": math.nan}, r"init_exponent is nan; it must be finite\."),
        ({"score_scale": 0.0}, r"score_scale is 0\.0; it must be finite and above 0\."),
        ({"query_probabilities": (0.5, 0.5)}, r"query_probabilities has 2 entries"),
        ({"query_probabilities": (0.5, 0.5, 0.5, -0.5)}, r"query_probabilities has 4 entries of sum 1"),
    ],
)
def test_bad_layers_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(**fields)  # type: ignore[arg-type]


def test_bad_arguments_are_refused() -> None:
    zipf = layer(query_probabilities=PROBABILITIES)
    for call, message in (
        (lambda: theory.slopes(layer(4, 3), np.zeros((4, 4))), "n_slots is 3; it must be 2 or n_tokens = 4"),
        (lambda: theory.escape_time(zipf, 0.5), "query_probabilities is set"),
        (lambda: theory.escape_alignment(layer(), -1.0), "margin is -1.0"),
        (lambda: theory.flow_growth(1.0, math.inf), "flow_time is inf"),
        (lambda: theory.descent_growth(1.0, 3, 0.1, 1.0), "momentum is 1.0"),
        (lambda: theory.descent_growth(1.0, 3, -0.1), "learning_rate is -0.1"),
        (lambda: theory.off_diagonal(zipf, theory.flow_growth(1.0, 1.0)), "query_probabilities is set"),
        (lambda: theory.linear_error(-1.0), "largest_score is -1.0"),
        (lambda: theory.zipf_probabilities(1), "n_tokens is 1"),
        (lambda: theory.zipf_probabilities(3, math.nan), "exponent is nan"),
        (lambda: theory.wishart_ceiling(0, 3), "n_dimensions is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
