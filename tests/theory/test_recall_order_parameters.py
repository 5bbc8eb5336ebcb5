"""The order parameters: against differences of the loss, a dense model without symmetry, a plain loop, and the first step.

The dense model knows nothing of classes: it has explicit matrices, is shown the very contexts that were drawn together with all
their images under permutations of generic tokens, and is differentiated entry by entry.
"""

import itertools
import math

import numpy as np
import pytest

from tests.enumeration import derivative, inputs, log_softmax, model_logits
from theory.noisy_recall import (
    CLASSES,
    KEYS,
    ContextTable,
    LearningRates,
    State,
    answers,
    context_table,
    draw_sequences,
    first_step,
    gradient,
    gradient_descent,
    gradient_flow,
)
from theory.noisy_recall.first_step import Features
from theory.problems import MarkovChain, NoisyRecall

FEATURES: list[Features] = ["current", "both"]
TINY = {
    "3, 6": NoisyRecall.theory_version(3, 6, 0.3),
    "4, 5": NoisyRecall.theory_version(4, 5, 0.6, trigger=2),
    "4, no noise": NoisyRecall.theory_version(4, 7, 0.0, trigger=3),
}


def random_state(seed: int, features: Features, size: float = 1.0) -> State:
    """Nothing is zero, but what cannot be read."""
    vector = size * np.random.default_rng(seed).standard_normal(29)
    if features == "current":
        vector[13:23] = 0
    return State.from_vector(vector)


def table_of(problem: NoisyRecall, number: int, seed: int) -> tuple[ContextTable, np.ndarray, np.ndarray]:
    """A table, and the contexts (n, T) and targets (n,) that it was made from, by the same seed."""
    drawn = draw_sequences(problem, number, np.random.default_rng(seed))
    table = context_table(problem, number, np.random.default_rng(seed))
    return table, drawn.tokens[:, :-1], drawn.targets[:, 0]


def kind(problem: NoisyRecall, token: int) -> str:
    return {problem.noise_token: "noise", problem.trigger: "trigger"}.get(token, "generic")


def dense(problem: NoisyRecall, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W_F (V, 2 V), W_V (V, 2 V) and W_KQ (2 V, 2 V) of a state, entry by entry by the names of its classes."""
    size = problem.vocabulary_size
    feed_forward, value = np.zeros((2, size, 2 * size))
    key_query = np.zeros((2 * size, 2 * size))
    for row in range(size):
        one = kind(problem, row)
        feed_forward[row, problem.trigger] = state.feed_forward[("noise", "trigger", "generic").index(one)]
        for column in range(size):
            name = f"{one}_{kind(problem, column)}"
            if name == "generic_generic":
                name = "same" if row == column else "different"
            value[row, column] = state.value[CLASSES.index(name)]
            value[row, size + column] = state.value_previous[CLASSES.index(name)]
        key_query[row, problem.trigger] = state.key_query[KEYS.index(f"current_{one}")]
        key_query[size + row, problem.trigger] = state.key_query[KEYS.index(f"previous_{one}")]
    return feed_forward, value, key_query


def symmetrised(
    problem: NoisyRecall, contexts: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All images of contexts and targets under permutations of generic tokens."""
    found = []
    for order in itertools.permutations(problem.targets):
        name = np.arange(problem.vocabulary_size)
        name[list(problem.targets)] = order
        found.append((name[contexts], name[targets]))
    return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])


def class_sizes(problem: NoisyRecall) -> np.ndarray:
    """Entries of each order parameter's class, shape (29,)."""
    n = len(problem.targets)
    block = [1, 1, n, 1, 1, n, n, n, n, n * (n - 1)]
    return np.array([1, 1, n, *block, *block, 1, 1, n, 1, 1, n])


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("features", FEATURES)
def test_the_gradient_is_that_of_a_dense_model_without_symmetry(name: str, features: Features) -> None:
    problem = TINY[name]
    table, contexts, targets = table_of(problem, 8, 1)
    state = random_state(2, features)
    contexts, targets = symmetrised(problem, contexts, targets)
    size, level = problem.vocabulary_size, problem.noise_level
    vectors, rows = inputs(contexts, size), np.arange(len(contexts))
    matrices = dense(problem, state)

    def loss(place: int, moved: np.ndarray) -> complex:
        used = [moved if place == k else one for k, one in enumerate(matrices)]
        logs = log_softmax(model_logits(vectors, *used))
        mean = (1 - level) * logs[rows, targets] + level * logs[:, problem.noise_token]
        return -complex(mean.mean())

    assert answers(state, table, features).loss(level) == pytest.approx(loss(3, matrices[0]).real, rel=1e-12)
    forward, value, keys = (-derivative(lambda one, k=k: loss(k, one), matrices[k]) for k in range(3))
    exact = dense(problem, gradient(state, table, features))
    read = 2 * size if features == "both" else size
    # The complex step has no error; sums of some hundred terms of order one.
    np.testing.assert_allclose(exact[0][:, problem.trigger], forward[:, problem.trigger], rtol=0, atol=1e-12)
    np.testing.assert_allclose(exact[1][:, :read], value[:, :read], rtol=0, atol=1e-12)
    np.testing.assert_allclose(exact[2][:, problem.trigger], keys[:, problem.trigger], rtol=0, atol=1e-12)
    assert not exact[1][:, read:].any()


@pytest.mark.parametrize(("n_tokens", "length", "level"), [(3, 5, 0.2), (9, 40, 0.5), (6, 12, 0.0)])
@pytest.mark.parametrize("features", FEATURES)
def test_the_gradient_is_the_slope_of_the_loss(
    n_tokens: int, length: int, level: float, features: Features
) -> None:
    """Central differences over 1e-5: errors 1e-10 of the third derivative and 1e-16/1e-5 of rounding."""
    table = context_table(NoisyRecall.theory_version(n_tokens, length, level), 200, np.random.default_rng(3))
    state = random_state(4, features)
    vector, step = state.vector(), 1e-5
    slopes = np.zeros(29)
    for place in range(29):
        if features == "current" and 13 <= place < 23:
            continue
        losses = []
        for sign in (1, -1):
            moved = vector.copy()
            moved[place] += sign * step
            losses.append(answers(State.from_vector(moved), table, features).loss(level))
        slopes[place] = (losses[1] - losses[0]) / (2 * step)
    found = gradient(state, table, features).vector() * class_sizes(table.problem)
    np.testing.assert_allclose(found, slopes, rtol=0, atol=3e-9)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("use_feed_forward", [True, False])
def test_answers_by_a_plain_loop(name: str, features: Features, use_feed_forward: bool) -> None:
    """Position by position in the drawn contexts; the table's tokens are noise, trigger, target, and the rest in any order."""
    problem = TINY[name]
    table, contexts, targets = table_of(problem, 30, 5)
    state = random_state(6, features)
    found = answers(state, table, features, use_feed_forward=use_feed_forward)
    feed_forward, value, key_query = dense(problem, state)
    size, trigger = problem.vocabulary_size, problem.trigger
    for row, (context, target) in enumerate(zip(contexts.tolist(), targets.tolist(), strict=True)):
        vectors = []
        for place, token in enumerate(context):
            vector = np.zeros(2 * size)
            vector[token] += 1
            if place:
                vector[size + context[place - 1]] += 1
            vectors.append(vector)
        scores = np.array([vector @ key_query[:, trigger] for vector in vectors])
        attention = np.exp(scores) / np.exp(scores).sum()
        logits = sum(weight * (value @ vector) for weight, vector in zip(attention, vectors, strict=True))
        if use_feed_forward:
            logits = logits + feed_forward[:, trigger]
        exact = np.exp(logits) / np.exp(logits).sum()
        on = {problem.noise_token: 0.0, target: 0.0}
        for place in range(1, len(context)):
            if context[place - 1] == trigger and context[place] in on:
                on[context[place]] += attention[place]
        rest = sorted(exact[token] for token in problem.targets if token != target)
        # A softmax of logits of order ten.
        np.testing.assert_allclose(
            found.probabilities[row, :3],
            [exact[problem.noise_token], exact[trigger], exact[target]],
            rtol=1e-12,
        )
        np.testing.assert_allclose(sorted(found.probabilities[row, 3:]), rest, rtol=1e-12)
        assert found.target[row] == found.probabilities[row, 2]
        assert found.noise[row] == found.probabilities[row, 0]
        assert found.attention_target[row] == pytest.approx(on[target], rel=1e-12)
        assert found.attention_noise[row] == pytest.approx(on[problem.noise_token], rel=1e-12)
        assert found.target_shown[row] == (on[target] > 0)


@pytest.mark.parametrize("name", TINY)
def test_the_table_counts_the_drawn_contexts(name: str) -> None:
    problem = TINY[name]
    table, contexts, targets = table_of(problem, 50, 7)
    assert table.n_contexts == 50
    for row, (context, target) in enumerate(zip(contexts.tolist(), targets.tolist(), strict=True)):
        classes = ["noise", "trigger", "generic"]
        special = [problem.noise_token, problem.trigger, target]
        rest = [token for token in problem.targets if token != target]
        for place, token in enumerate(special):
            column = table.by_previous[row, :, place]
            for f, one in enumerate([*classes, "absent"]):
                number = sum(
                    here == token and (kind(problem, context[t - 1]) if t else "absent") == one
                    for t, here in enumerate(context)
                )
                assert column[f] == number, (row, token, one)
            for c, one in enumerate(classes):
                number = sum(
                    kind(problem, context[t]) == one and context[t - 1] == token
                    for t in range(1, len(context))
                )
                assert table.by_current[row, c, place] == number, (row, token, one)
        tallies = sorted(context.count(token) for token in rest)
        assert sorted(table.by_previous[row, :, 3:].sum(0)) == tallies
    assert np.all(table.by_previous.sum((1, 2)) == problem.context_length)
    assert np.all(table.by_current.sum((1, 2)) == problem.context_length - 1)


def class_means(problem: NoisyRecall, block: np.ndarray) -> np.ndarray:
    """Means of the entries of each class of a V × V block, shape (10,)."""
    noise, trigger, rest = problem.noise_token, problem.trigger, list(problem.targets)
    generic = block[np.ix_(rest, rest)]
    off = generic[~np.eye(len(rest), dtype=bool)]
    rows = [
        [block[one, other] for other in (noise, trigger)] + [block[one, rest].mean()]
        for one in (noise, trigger)
    ]
    columns = [block[rest, noise].mean(), block[rest, trigger].mean()]
    return np.array([*rows[0], *rows[1], *columns, np.diag(generic).mean(), off.mean()])


@pytest.mark.parametrize("features", FEATURES)
def test_the_gradient_at_zero_is_the_first_step(features: Features) -> None:
    """Within 5 standard errors, from 20 tables of 500 contexts each: 23 numbers at 2 × 10⁻⁴ each at 19 degrees of freedom.

    Seeds are fixed; a threshold of 6 makes the chance of a false alarm 23 × 9e-6.
    """
    problem = NoisyRecall.theory_version(7, 30, 0.4)
    tables = [context_table(problem, 500, np.random.default_rng(seed)) for seed in range(20)]
    found = np.array([gradient(State.zero(), table, features).vector() for table in tables])
    step, size = first_step(problem, features), problem.vocabulary_size
    exact = np.zeros(29)
    column = step.feed_forward[:, problem.trigger]
    exact[:3] = column[problem.noise_token], column[problem.trigger], column[list(problem.targets)].mean()
    exact[3:13] = class_means(problem, step.value[:, :size])
    exact[13:23] = class_means(problem, step.value[:, size:])
    error = found.std(0, ddof=1) / math.sqrt(len(tables))
    # Labels are averaged exactly and the trigger's column of W_F has no context in it: rounding alone there. Keys: values are 0.
    assert np.all(np.abs(found.mean(0) - exact) <= 6 * error + 1e-14)
    assert np.all(error[3:13] < 0.05 * np.abs(exact[3:13]).max()), "the test must be able to see an error"
    assert not found[:, 23:].any()


RATES = LearningRates(0.5, 0.8, 0.3)


@pytest.mark.parametrize("features", FEATURES)
def test_descent_with_small_rates_is_the_flow(features: Features) -> None:
    """The same time in twice the steps of half the rate: the distance from the flow halves."""
    table = context_table(NoisyRecall.theory_version(5, 12, 0.3), 100, np.random.default_rng(9))
    exact = gradient_flow(table, RATES, [40.0], features, relative_tolerance=1e-9)[0].vector()
    gaps = []
    for times in (4, 8):
        rates = LearningRates(*(one / times for one in vars(RATES).values()))
        last = gradient_descent(table, rates, [40 * times], features)[0].vector()
        gaps.append(np.abs(last - exact).max())
    assert np.abs(exact).max() > 1
    assert gaps[0] < 0.05 * np.abs(exact).max()
    # First order in the rate: a ratio of two, up to the second order.
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.15)


def test_a_step_of_descent_is_a_gradient_and_a_flow_can_go_on() -> None:
    table = context_table(NoisyRecall.theory_version(5, 12, 0.3), 60, np.random.default_rng(10))
    start, one, two = gradient_descent(table, RATES, [0, 1, 2])
    speed = RATES.vector()
    assert not start.vector().any()
    np.testing.assert_array_equal(one.vector(), speed * gradient(start, table).vector())
    np.testing.assert_array_equal(two.vector(), one.vector() + speed * gradient(one, table).vector())
    first, middle, last = gradient_flow(table, RATES, [0, 20, 50], relative_tolerance=1e-8)
    assert not first.vector().any()
    further = gradient_flow(table, RATES, [30], start=middle, relative_tolerance=1e-8)[0]
    # Two integrations at 1e-8 of numbers of order one, errors added over some hundred steps.
    np.testing.assert_allclose(further.vector(), last.vector(), rtol=0, atol=1e-6)


def test_a_flow_is_asked_for_a_time_twice() -> None:
    """Sorted steps may be equal, as two marks of a plot fall on one step."""
    table = context_table(TINY["3, 6"], 20, np.random.default_rng(10))
    assert len(gradient_flow(table, RATES, [0, 0])) == 2
    first, middle, again, last = gradient_flow(table, RATES, [0, 20, 20, 50])
    np.testing.assert_array_equal(middle.vector(), again.vector())
    assert not first.vector().any()
    assert not np.array_equal(again.vector(), last.vector())


@pytest.mark.parametrize("frozen", ["feed_forward", "value", "key_query"])
def test_frozen_matrices_stay_at_zero(frozen: str) -> None:
    table = context_table(NoisyRecall.theory_version(4, 8, 0.3), 40, np.random.default_rng(11))
    rates = LearningRates(**{**vars(RATES), frozen: 0.0})
    for last in (
        gradient_flow(table, rates, [30.0], "both")[0],
        gradient_descent(table, rates, [30], "both")[0],
    ):
        parts = vars(last)
        moving = {name for name, values in parts.items() if values.any()}
        expected = {"feed_forward", "value", "value_previous", "key_query"}
        if frozen == "value":  # without values attention has nothing to gain
            assert moving == {"feed_forward"}
        else:
            assert moving == expected - {frozen}


def test_states_and_vectors() -> None:
    vector = np.arange(29.0)
    state = State.from_vector(vector)
    np.testing.assert_array_equal(state.vector(), vector)
    assert [len(one) for one in vars(state).values()] == [3, 10, 10, 6]
    np.testing.assert_array_equal(
        LearningRates(1, 2, 3).vector(), np.concatenate([np.full(3, 1), np.full(20, 2), np.full(6, 3)])
    )
    assert len(CLASSES) == len(set(CLASSES)) == 10
    assert len(KEYS) == len(set(KEYS)) == 6


def test_logits_may_be_large() -> None:
    """Attention scores and logits of order 10³ neither overflow nor lose their sum."""
    table = context_table(NoisyRecall.theory_version(5, 12, 0.3), 20, np.random.default_rng(12))
    state = random_state(13, "both", 300.0)
    found = answers(state, table, "both")
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-13)
    assert np.all(np.isfinite(gradient(state, table, "both").vector()))


def test_bad_input_is_told() -> None:
    table = context_table(TINY["3, 6"], 5, np.random.default_rng(0))
    for name in ("feed_forward", "value", "key_query"):
        for wrong in (-0.1, math.inf, math.nan):
            with pytest.raises(ValueError, match=rf"{name} is {wrong}; a learning rate must be finite"):
                LearningRates(**{**vars(RATES), name: wrong})
    for call in (
        lambda: answers(State.zero(), table, "all"),
        lambda: gradient(State.zero(), table, "all"),
        lambda: gradient_flow(table, RATES, [1.0], "all"),
    ):
        with pytest.raises(ValueError, match=r"features is 'all'; it must be one of current, both\."):
            call()
    for steps in ([2, 1], [-1, 3], [], [[1, 2]]):
        with pytest.raises(ValueError, match=r"steps is .*; it must be a sorted sequence of numbers"):
            gradient_flow(table, RATES, steps)
    other = NoisyRecall.theory_version(4, 5, 0.3, MarkovChain.zipf_dirichlet(4))
    with pytest.raises(ValueError, match="problem is not the theory version on the uniform chain"):
        context_table(other, 5, np.random.default_rng(0))
