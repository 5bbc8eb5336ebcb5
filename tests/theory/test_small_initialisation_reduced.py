"""Beyond the linear softmax, sign updates and normalisation: closed forms against integration, loops, and plain numpy draws."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from theory import small_initialisation as theory
from theory.small_initialisation import FreshDecoder, MatchingLayer

LAYERS = [MatchingLayer(5, m, 8, 6, 0.75, 0.5) for m in (2, 5)]


def balanced(one: MatchingLayer, margin: float) -> np.ndarray:
    """W_q = W_k whose kernel is a multiple of I − 11ᵀ/n, with this margin."""
    columns = np.linalg.qr(np.random.default_rng(0).normal(size=(one.head_width, one.n_tokens)))[0]
    return math.sqrt(margin / one.score_scale) * columns @ (np.eye(one.n_tokens) - 1 / one.n_tokens)


@pytest.mark.parametrize("one", LAYERS)
def test_unfactored_margin_is_that_of_the_whole_kernel(one: MatchingLayer) -> None:
    times = np.linspace(0, 100, 5) / one.rate
    done = integrate.solve_ivp(
        lambda _, state: theory.slopes(one, state.reshape(5, 5)).ravel(),
        (0, times[-1]), np.zeros(25), t_eval=times, rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    measured = theory.margins(one, done.y.T.reshape(-1, 5, 5))
    assert measured[-1] > 2
    assert np.allclose(theory.unfactored_margin(one, times), measured, rtol=1e-8, atol=1e-9)


def test_unfactored_margin_does_not_overflow() -> None:
    one = MatchingLayer(4, 2, 4, 4, 0.5)
    late = float(theory.unfactored_margin(one, 1e6))
    assert math.exp(late) + late == pytest.approx(1 + 1e6 * one.rate * 2, rel=1e-9)


@pytest.mark.parametrize("one", LAYERS)
def test_balanced_time_is_that_of_the_whole_flow(one: MatchingLayer) -> None:
    start = balanced(one, 0.01)
    goals = np.array([0.02, 0.2, 1.0, 3.0])
    kernels = theory.population_flow(one, start, start, theory.balanced_time(one, 0.01, goals))
    assert np.allclose(
        theory.margins(one, kernels), goals, rtol=1e-6
    )  # the integrator's 1e-9, grown 300-fold
    early = (theory.balanced_time(one, 1e-6, 1e-4) - math.log(100) / (2 * one.rate)) * one.rate
    assert abs(early) < 1e-4


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("m", [2, 40])
def test_two_numbers_follow_a_wide_layer(m: int, momentum: float) -> None:
    """d_k = 4000 and n = 40 leave scores spread by 2 % of the margin, and the mean margin by 0.3 % at first and more later."""
    one = MatchingLayer(40, m, 64, 4000, 0.9, 4000**-0.5)
    query, key = (part[0] for part in theory.draw_starts(one, 1, np.random.default_rng(1)))
    rate, steps = 0.08 * (1 - momentum) / one.rate, np.arange(0, 41, 8)
    kernels = theory.population_descent(one, query, key, steps, rate, momentum)
    margins = theory.margins(one, kernels)
    growth = theory.reduced_growth(one, 40, rate, momentum)
    expected = one.start_scale * growth.signal[steps]
    assert 1.5 < expected[-1] < 20
    assert np.allclose(margins[1:], expected[1:], rtol=0.015)


def test_two_numbers_start_as_the_linear_theory() -> None:
    one = MatchingLayer(6, 2, 64, 4, 2.0)
    both = theory.reduced_growth(one, 20, 0.1 / one.rate, 0.5)
    linear = theory.descent_growth(one.rate, np.arange(21), 0.1 / one.rate, 0.5)
    assert np.allclose(both.signal, linear.signal, rtol=1e-2)  # margins up to 0.01
    assert float(one.start_scale * linear.signal[-1]) < 0.02


def test_descent_in_small_steps_is_the_flow() -> None:
    one = MatchingLayer(4, 2, 6, 3, 0.5, query_probabilities=theory.zipf_probabilities(4))
    query, key = (part[0] for part in theory.draw_starts(one, 1, np.random.default_rng(2)))
    flow = theory.population_flow(one, query, key, [1.0 / one.rate])[0]
    gaps = []
    for steps in (500, 1000):
        kernel = theory.population_descent(one, query, key, [steps], 1 / (one.rate * steps))[0]
        gaps.append(np.abs(kernel - flow).max())
    assert gaps[0] < 0.01
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.02)  # first order in the step


def test_the_kernel_waits_for_copying() -> None:
    """Minus the gradient in the kernel at C = κ(I − 11ᵀ/n) is c κ/m of the centring, to order κ², by enumeration."""
    n, m, strength = 4, 2, 1e-4
    one = MatchingLayer(n, m, n, 3, 0.5)
    copying, found = strength * (np.eye(n) - 1 / n), np.zeros((n, n))
    pairs = list(itertools.permutations(range(n), m))
    for keys, values, right in itertools.product(pairs, pairs, range(m)):
        logits = copying[:, values].mean(1)
        chance = np.exp(logits) / np.exp(logits).sum()
        gain = copying[:, values].T @ (np.eye(n)[values[right]] - chance)
        found[keys[right], keys] += (gain - gain.mean()) / m
    found /= len(pairs) ** 2 * m
    assert np.allclose(found, one.rate * strength / m * (np.eye(n) - 1 / n), rtol=1e-3, atol=0)


def test_waiting_growth_integrates_the_copying_strength() -> None:
    one = MatchingLayer(8, 3, 16, 4, 0.75)
    time = 2.5 / theory.copying_rate(8, 3)
    whole, _ = integrate.quad(lambda at: float(theory.copying_strength(one, 5, 0.1, at)), 0, time)
    growth = theory.waiting_growth(one, 5, 0.1, time)
    assert math.log(float(growth.sums)) == pytest.approx(one.rate / 3 * whole, rel=1e-8)


# --- signs


@given(key=st.integers(0, 1000), distance=st.floats(0, 3))
def test_sign_flow_is_many_small_steps(key: int, distance: float) -> None:
    first, second = np.random.default_rng(key).normal(size=(2, 4, 5))
    query, keys, step = first.copy(), second.copy(), 1e-3
    for _ in range(round(distance / step)):
        query, keys = query + step * np.sign(keys), keys + step * np.sign(query)
    found = theory.sign_flow(first, second, distance)
    # a step decides which of two opposite entries of nearly equal size outlasts the other
    clear = np.abs(first + second) > 4 * step
    assert clear.mean() > 0.7
    # a step of rounding, up to two of overshoot, one of the mean
    assert np.abs(np.array(found) - [query, keys])[:, clear].max() < 4 * step


def test_sign_updates_forget_the_start() -> None:
    """At a distance of 300 σ the margin and alignment of 200 layers are those of random signs."""
    one = MatchingLayer(12, 2, 12, 6, 1.0, 0.4)
    distance = 300 * one.init_std
    query, key = theory.sign_flow(*theory.draw_starts(one, 200, np.random.default_rng(3)), distance)
    kernels = query.swapaxes(1, 2) @ key
    margins = theory.margins(one, kernels)
    error = margins.std() / math.sqrt(200)
    assert abs(margins.mean() - theory.sign_margin(one, distance)) < 5 * error + 0.01 * margins.mean()
    cosine = np.einsum("kii->k", kernels).mean() / math.sqrt(12 * (kernels**2).sum((1, 2)).mean())
    assert cosine == pytest.approx(theory.sign_ceiling(12, 6), rel=0.02)


def test_sign_ceiling_by_enumeration() -> None:
    signs = np.array(list(itertools.product([-1, 1], repeat=6)), float).reshape(-1, 2, 3)
    kernels = signs.swapaxes(1, 2) @ signs
    cosine = np.einsum("kii->k", kernels).mean() / math.sqrt(3 * (kernels**2).sum((1, 2)).mean())
    assert cosine == pytest.approx(theory.sign_ceiling(3, 2), rel=1e-12)


def test_the_sign_of_a_rank_one_gradient_is_rank_one() -> None:
    one, other = np.random.default_rng(4).normal(size=(2, 7))
    step = theory.adam_first_step(np.outer(one, other), 0.1, 0.0)
    assert np.linalg.matrix_rank(step) == 1
    assert np.allclose(np.abs(step), 0.1, rtol=1e-15)


def test_flipped_share_of_signs() -> None:
    draws = np.random.default_rng(5).normal(size=(40_000, 8))
    flipped = (np.sign(draws) != np.sign(draws - draws.mean(1, keepdims=True))).mean(1)
    assert abs(flipped.mean() - theory.flipped_share(8)) < 5 * flipped.std() / 200
    assert theory.flipped_share(400) == pytest.approx(1 / (math.pi * 20), rel=1e-2)


def test_forgotten_exponent() -> None:
    gamma = theory.forgotten_exponent(MatchingLayer(4, 2, 64, 16, 0.5, 0.25), 0.5)
    one = MatchingLayer(4, 2, 64, 16, gamma, 0.25)
    assert float(theory.sign_margin(one, one.init_std)) == pytest.approx(0.5)


# --- normalisation


def normalised(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("gamma", [0.3, 0.5, 0.8])
def test_stream_sizes_and_residual_ratio_by_draws(norm: theory.Norm, gamma: float) -> None:
    """Mean squares of 400 fresh layers with five-sigma bounds; width 24 leaves 1/24 where LN centres its rows."""
    decoder = FreshDecoder(50, 9, 24, 10, gamma, norm, hidden_width=40)
    rng, attended, count = np.random.default_rng(6), 5, 400
    squares = []
    for _ in range(count):
        rows = rng.normal(0, 50**-gamma, (attended, 24)) + rng.normal(0, 9**-gamma, (attended, 24))
        read = normalised(rows) if norm == "pre" else rows
        output = rng.normal(0, 10**-gamma, (24, 10)) @ rng.normal(0, 24**-gamma, (10, 24)) @ read.mean(0)
        between = rows[-1] + output
        into = normalised(between)
        stream = between if norm == "pre" else into
        hidden = np.maximum(rng.normal(0, 24**-gamma, (40, 24)) @ into, 0)
        after = stream + rng.normal(0, 40**-gamma, (24, 40)) @ hidden
        squares.append([(one**2).mean() for one in (rows[-1], between, after, output)])
    table = np.array(squares)
    first, between, after = theory.stream_sizes(decoder, attended)
    ratio = theory.residual_ratio(decoder, attended)
    for samples, expected in zip(
        table.T, (first**2, between**2, after**2, (ratio * first) ** 2), strict=True
    ):
        assert abs(samples.mean() - expected) < 5 * samples.std() / math.sqrt(count) + 1e-12 * expected


def test_small_starts_separate_pre_and_post() -> None:
    post = [
        theory.residual_ratio(FreshDecoder(200, 13, 64, 16, gamma, "post"), 13) for gamma in (0.5, 0.8, 1.0)
    ]
    assert post[0] == pytest.approx(13**-0.5)
    assert np.all(np.diff(post) < 0)
    pre = [
        theory.residual_ratio(FreshDecoder(5000, 5000, 64, 16, gamma, "pre"), 13) for gamma in (0.5, 0.8, 1.0)
    ]
    assert np.all(np.diff(pre) > 0)  # V > d d_v
    scales = {
        norm: [
            theory.gradient_scale(FreshDecoder(200, 13, 64, 16, 1.0, norm, 128, 3), number, 13)
            for number in range(3)
        ]
        for norm in ("pre", "post")
    }
    stream = FreshDecoder(200, 13, 64, 16, 1.0).first_stream
    assert np.ptp(scales["pre"]) == 0
    assert scales["pre"][0] == pytest.approx(1 / stream, rel=0.04)  # what six sublayers add to 0.077
    assert scales["post"][0] == pytest.approx(1 / stream, rel=1e-3)
    assert np.allclose(scales["post"][1:], 1, rtol=1e-3)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gradient_scale_by_differences(norm: theory.Norm) -> None:
    """A small random change of the attention's output, through fresh residual layers to the last LN; ten draws leave 1 %.

    Sublayers stand in by feed-forwards. At γ = 1.1 they are 5 % of the stream, and what goes through them 0.3 %.
    """
    decoder = FreshDecoder(20, 20, 600, 30, 1.1, norm, hidden_width=30, n_layers=2)
    rng, attended = np.random.default_rng(7), 4

    def rest(output: np.ndarray, layer: int, seed: int) -> np.ndarray:
        draws = np.random.default_rng(seed)
        size = decoder.first_stream if layer == 0 or norm == "pre" else 1.0
        stream = draws.normal(size=600)
        stream = size * normalised(stream) + output
        sublayers = [(40**0, None)] * (4 - 2 * layer - 1)
        if norm == "post":
            stream = normalised(stream)
        for _ in sublayers:
            read = normalised(stream) if norm == "pre" else stream
            matrix = draws.normal(0, 600**-1.1, (30, 600))
            stream = stream + draws.normal(0, 30**-1.1, (600, 30)) @ np.maximum(matrix @ read, 0)
            if norm == "post":
                stream = normalised(stream)
        return normalised(stream) if norm == "pre" else stream

    for layer in (0, 1):
        gains = []
        for seed in range(10):
            change = 1e-7 * rng.normal(size=600)
            moved = rest(change, layer, seed) - rest(np.zeros(600), layer, seed)
            gains.append(np.linalg.norm(moved) / np.linalg.norm(change))
        assert np.mean(gains) == pytest.approx(theory.gradient_scale(decoder, layer, attended), rel=0.015)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, r"width is 0; it must be at least 1\."),
        ({"init_exponent": math.nan}, r"init_exponent is nan; it must be finite\."),
        ({"norm": "rms"}, r"norm is 'rms'; it must be one of pre, post\."),
        ({"hidden_width": -1}, r"hidden_width is -1"),
    ],
)
def test_bad_decoders_are_refused(fields: dict[str, object], message: str) -> None:
    settings = {"vocabulary_size": 9, "context_length": 5, "width": 4, "value_width": 4, "init_exponent": 0.5}
    with pytest.raises(ValueError, match=message):
        FreshDecoder(**settings | fields)  # type: ignore[arg-type]


def test_bad_arguments_are_refused() -> None:
    one = LAYERS[0]
    zipf = MatchingLayer(4, 2, 4, 3, 0.5, query_probabilities=theory.zipf_probabilities(4))
    query, key = theory.draw_starts(one, 1, np.random.default_rng(0))
    decoder = FreshDecoder(9, 5, 4, 4, 0.5)
    for call, message in (
        (lambda: theory.unfactored_margin(zipf, 1.0), "query_probabilities is set"),
        (lambda: theory.unfactored_margin(one, -1.0), "flow_time is -1.0"),
        (lambda: theory.balanced_time(one, 0.0, 1.0), "start is 0.0"),
        (lambda: theory.balanced_time(one, 0.1, -1.0), "margin is -1.0"),
        (lambda: theory.reduced_growth(one, -1, 0.1), "final_step is -1"),
        (lambda: theory.population_descent(one, query, key, [3, 1], 0.1), "steps is"),
        (lambda: theory.population_flow(one, query[0], key[0], [math.nan]), "flow_time is"),
        (lambda: theory.waiting_growth(LAYERS[1], 3, 0.1, 1.0), "n_slots is 5; it must be below n_tokens"),
        (lambda: theory.copying_strength(one, 0, 0.1, 1.0), "value_width is 0"),
        (lambda: theory.draw_starts(one, 0, np.random.default_rng(0)), "count is 0"),
        (lambda: theory.sign_flow(query, key, -1.0), "distance is -1.0"),
        (lambda: theory.residual_ratio(decoder, 0), "n_attended is 0"),
        (lambda: theory.gradient_scale(decoder, 1, 3), "layer is 1; it must be an integer from 0 to 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
