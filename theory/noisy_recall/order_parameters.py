"""The whole training of the one-layer model by a handful of numbers, which symmetry makes enough.

On the uniform chain all ordinary tokens but the trigger are alike ("generic"), so gradient descent on the population loss from
zero keeps every matrix the same under their permutations: of a V × V block only ten values are left, of the trigger's
column three, of the attention scores six. Their rates of change are averages over contexts, taken over a drawn set of
contexts with the labels averaged exactly. That average is the only approximation: it has a Monte Carlo error, and
repeating it with other contexts shows it.

The feed-forward matrix and the query read the current token (the trigger); keys read both; the value matrix reads what
`features` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from theory.noisy_recall.counts import require_uniform
from theory.noisy_recall.first_step import Features, check_features
from theory.noisy_recall.sampling import draw_sequences
from theory.problems import NoisyRecall

CLASSES = (
    "noise_noise",
    "noise_trigger",
    "noise_generic",
    "trigger_noise",
    "trigger_trigger",
    "trigger_generic",
    "generic_noise",
    "generic_trigger",
    "same",
    "different",
)
"""Classes of entries of a V × V block, named row (label) first; "same" and "different" are generic-generic entries."""
KEYS = (
    "current_noise",
    "current_trigger",
    "current_generic",
    "previous_noise",
    "previous_trigger",
    "previous_generic",
)
"""Key features, for the query of the trigger."""
NOISE, TRIGGER, GENERIC, ABSENT = range(4)


@dataclass(frozen=True)
class ContextTable:
    """Contexts of the uniform chain, all with the target at generic token 0, as counts (tables_n contexts; N − 1 generic tokens).

    Tokens are renumbered: 0 noise, 1 trigger, 2 target, 3 … the other generic ones. Classes: noise, trigger, generic, absent.

    - `by_previous`: positions with a previous token of class f and the token v, shape (contexts, 4, N + 1).
    - `by_current`: positions with a token of class c and the previous token v, shape (contexts, 3, N + 1).
    """

    problem: NoisyRecall
    by_previous: np.ndarray
    by_current: np.ndarray

    @property
    def n_contexts(self) -> int:
        """Number of contexts in the table."""
        return len(self.by_previous)


def context_table(problem: NoisyRecall, n_contexts: int, rng: np.random.Generator) -> ContextTable:
    """Draw contexts and count them. Cost: n_contexts · T. Raises ValueError for a problem that is not uniform."""
    require_uniform(problem)
    drawn = draw_sequences(problem, n_contexts, rng)
    size = problem.vocabulary_size
    tokens, targets = drawn.tokens[:, :-1], drawn.targets[:, 0]
    name = np.empty((n_contexts, size), int)
    name[:, problem.noise_token], name[:, problem.trigger] = NOISE, TRIGGER
    generic = np.asarray(problem.targets)
    name[:, generic] = np.arange(2, size)
    first = generic[0]
    rows = np.arange(n_contexts)
    name[rows, first], name[rows, targets] = name[rows, targets], name[rows, first]
    tokens = name[rows[:, None], tokens]
    classes = np.minimum(tokens, GENERIC)
    before = np.full_like(classes, ABSENT)
    before[:, 1:] = classes[:, :-1]
    by_previous = np.zeros((n_contexts, 4, size))
    np.add.at(by_previous, (rows[:, None], before, tokens), 1.0)
    by_current = np.zeros((n_contexts, 3, size))
    np.add.at(by_current, (rows[:, None], classes[:, 1:], tokens[:, :-1]), 1.0)
    return ContextTable(problem, by_previous, by_current)


@dataclass(frozen=True)
class State:
    """Order parameters of one model.

    - `feed_forward`: column of the trigger, shape (3,): rows noise, trigger, generic.
    - `value`, `value_previous`: classes of the block of current and of previous tokens, shape (10,), in the order of CLASSES.
    - `key_query`: scores of the key features for the trigger's query, shape (6,), in the order of KEYS.
    """

    feed_forward: np.ndarray
    value: np.ndarray
    value_previous: np.ndarray
    key_query: np.ndarray

    @classmethod
    def zero(cls) -> State:
        """The start of training."""
        return cls(np.zeros(3), np.zeros(10), np.zeros(10), np.zeros(6))

    def vector(self) -> np.ndarray:
        """All parameters, shape (29,)."""
        return np.concatenate([self.feed_forward, self.value, self.value_previous, self.key_query])

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> State:
        """The inverse of `vector`."""
        return cls(vector[:3], vector[3:13], vector[13:23], vector[23:])


@dataclass(frozen=True)
class Answers:
    """What a model of this state makes of every context of a table; arrays of shape (contexts,) unless said otherwise.

    - `probabilities`: of the tokens in the table's order, shape (contexts, V). `target`, `noise`: two of its columns.
    - `attention_target`, `attention_noise`: attention on positions after a trigger that hold the target, the noise token.
    - `target_shown`: bool, whether there is any such position.
    """

    probabilities: np.ndarray
    attention_target: np.ndarray
    attention_noise: np.ndarray
    target_shown: np.ndarray

    @property
    def target(self) -> np.ndarray:
        """Probability of the target."""
        return self.probabilities[:, 2]

    @property
    def noise(self) -> np.ndarray:
        """Probability of the noise token."""
        return self.probabilities[:, NOISE]

    def loss(self, noise_level: float) -> float:
        """Mean cross-entropy in nats, labels averaged exactly."""
        return float(
            -(1 - noise_level) * np.log(self.target).mean()
            - (noise_level * np.log(self.noise).mean() if noise_level else 0.0)
        )


@dataclass(frozen=True)
class _Attention:
    """Attention of every context, summed over positions in the ways that the gradient needs.

    - `current`, `previous`: on each token as the current, the previous one, (contexts, V). `by_class`: on each class of the
      previous token, (contexts, 3). `weights`: factor of a position, (4 classes of previous, V), to be divided by `total`.
    - `swapped`: the same for (3 classes of current, V previous tokens).
    """

    current: np.ndarray
    previous: np.ndarray | None
    by_class: np.ndarray
    weights: np.ndarray
    swapped: np.ndarray
    total: np.ndarray


def _attention(state: State, table: ContextTable, features: Features) -> _Attention:
    classes = np.minimum(np.arange(table.problem.vocabulary_size), GENERIC)
    keys = np.append(state.key_query, 0.0)
    scores = keys[[3, 4, 5, 6]][:, None] + keys[:3]
    weights = np.exp(scores - scores.max())
    by_token = weights[:, classes]
    current = np.einsum("mfv,fv->mv", table.by_previous, by_token)
    total = current.sum(1)
    by_class = np.einsum("mfv,fv->mf", table.by_previous[:, :3], by_token[:3])
    swapped, previous = weights[:3, :].T[:, classes], None
    if features == "both":
        previous = np.einsum("mcv,cv->mv", table.by_current, swapped) / total[:, None]
    return _Attention(current / total[:, None], previous, by_class / total[:, None], by_token, swapped, total)


def _block_logits(block: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Logits (contexts, V) of a symmetric block for attention on tokens (contexts, V)."""
    noise, trigger, generic = mass[:, 0], mass[:, 1], mass[:, 2:]
    total = generic.sum(1)
    found = np.empty_like(mass)
    found[:, 0] = block[0] * noise + block[1] * trigger + block[2] * total
    found[:, 1] = block[3] * noise + block[4] * trigger + block[5] * total
    found[:, 2:] = (block[6] * noise + block[7] * trigger + block[9] * total)[:, None] + (
        block[8] - block[9]
    ) * generic
    return found


def _transposed(block: np.ndarray) -> np.ndarray:
    return block[[0, 3, 6, 1, 4, 7, 2, 5, 8, 9]]


def _block_gradient(residual: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Average over contexts and over the entries of each class of residual (label) × mass (token), shape (10,)."""
    count = mass.shape[1] - 2
    left = [residual[:, 0], residual[:, 1], residual[:, 2:].sum(1)]
    right = [mass[:, 0], mass[:, 1], mass[:, 2:].sum(1)]
    total = [[float(np.mean(row * column)) for column in right] for row in left]
    same = float(np.mean(np.einsum("mv,mv->m", residual[:, 2:], mass[:, 2:])))
    return np.array(
        [
            total[0][0],
            total[0][1],
            total[0][2] / count,
            total[1][0],
            total[1][1],
            total[1][2] / count,
            total[2][0] / count,
            total[2][1] / count,
            same / count,
            (total[2][2] - same) / (count * max(count - 1, 1)),
        ]
    )


def _logits(state: State, attention: _Attention, use_feed_forward: bool) -> np.ndarray:
    logits = _block_logits(state.value, attention.current)
    if attention.previous is not None:
        logits += _block_logits(state.value_previous, attention.previous)
    if use_feed_forward:
        logits[:, 0] += state.feed_forward[0]
        logits[:, 1] += state.feed_forward[1]
        logits[:, 2:] += state.feed_forward[2]
    return logits


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def answers(
    state: State, table: ContextTable, features: Features = "current", *, use_feed_forward: bool = True
) -> Answers:
    """Probabilities and attention on every context of the table; without the feed-forward matrix if so wanted."""
    check_features(features)
    attention = _attention(state, table, features)
    after = table.by_previous[:, TRIGGER]
    share = attention.weights[TRIGGER] / attention.total[:, None]
    return Answers(
        _softmax(_logits(state, attention, use_feed_forward)),
        after[:, 2] * share[:, 2],
        after[:, NOISE] * share[:, NOISE],
        after[:, 2] > 0,
    )


def gradient(state: State, table: ContextTable, features: Features = "current") -> State:
    """Minus the gradient of the mean loss by an entry of each class, averaged over the class. Cost: contexts · V.

    It is the gradient of training with these contexts and all their images under permutations of generic tokens.
    """
    check_features(features)
    level = table.problem.noise_level
    attention = _attention(state, table, features)
    current = attention.current
    residual = -_softmax(_logits(state, attention, True))
    residual[:, 2] += 1 - level
    residual[:, NOISE] += level
    count = residual.shape[1] - 2
    mean_residual = residual.mean(0)
    forward = np.array([mean_residual[0], mean_residual[1], mean_residual[2:].sum() / count])
    worth = _block_logits(_transposed(state.value), residual)  # Σ_k residual_k W(k, v)
    pulled = current * worth
    mean = pulled.sum(1)
    pull_current = _by_class(pulled)
    pull_previous = _pull(table.by_previous[:, :3], attention.weights[:3], worth, attention.total)
    value_previous = np.zeros(10)
    if attention.previous is not None:
        value_previous = _block_gradient(residual, attention.previous)
        more = _block_logits(_transposed(state.value_previous), residual)
        pulled = attention.previous * more
        mean = mean + pulled.sum(1)
        pull_previous = pull_previous + _by_class(pulled)
        pull_current = pull_current + _pull(table.by_current, attention.swapped, more, attention.total)
    keys = np.concatenate(
        [
            (pull_current - _by_class(current) * mean[:, None]).mean(0),
            (pull_previous - attention.by_class * mean[:, None]).mean(0),
        ]
    )
    keys[[GENERIC, 3 + GENERIC]] /= count
    return State(forward, _block_gradient(residual, current), value_previous, keys)


def _pull(positions: np.ndarray, weights: np.ndarray, worth: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Attention times worth, summed over tokens, by class; positions (contexts, 3, V), weights (3, V), worth (contexts, V)."""
    return np.matmul(positions * weights, worth[:, :, None])[:, :, 0] / total[:, None]


def _by_class(values: np.ndarray) -> np.ndarray:
    """Sums of (contexts, V) over the tokens of each class, shape (contexts, 3)."""
    return np.stack([values[:, 0], values[:, 1], values[:, 2:].sum(1)], axis=1)


@dataclass(frozen=True)
class LearningRates:
    """Learning rate of each matrix; 0 freezes it at zero."""

    feed_forward: float
    value: float
    key_query: float

    def __post_init__(self) -> None:
        for name, rate in vars(self).items():
            if not (np.isfinite(rate) and rate >= 0):
                raise ValueError(f"{name} is {rate}; a learning rate must be finite and at least 0.")

    def vector(self) -> np.ndarray:
        """The rate of every order parameter, shape (29,)."""
        return np.repeat([self.feed_forward, self.value, self.key_query], [3, 20, 6])


def gradient_flow(
    table: ContextTable,
    rates: LearningRates,
    steps: Sequence[float] | np.ndarray,
    features: Features = "current",
    *,
    start: State | None = None,
    relative_tolerance: float = 1e-5,
) -> list[State]:
    """States after `steps` steps of gradient descent with small learning rates (the flow; steps sorted, ≥ 0).

    Cost: some hundred evaluations of `gradient`. Raises ValueError when the steps are not sorted, ArithmeticError when the
    integration fails.
    """
    wanted = _checked_steps(steps)
    speed, first = rates.vector(), (start or State.zero()).vector()
    if wanted[-1] == 0:
        return [State.from_vector(first.copy()) for _ in wanted]

    def rate(_: float, vector: np.ndarray) -> np.ndarray:
        return speed * gradient(State.from_vector(vector), table, features).vector()

    times, place = np.unique(wanted, return_inverse=True)
    solved = solve_ivp(
        rate, (0, times[-1]), first, "LSODA", times, rtol=relative_tolerance, atol=relative_tolerance / 10
    )
    if not solved.success:
        raise ArithmeticError(f"the order parameters could not be integrated: {solved.message}")
    return [State.from_vector(solved.y[:, index]) for index in place]


def _checked_steps(steps: Sequence[float] | np.ndarray) -> np.ndarray:
    wanted = np.asarray(steps, float)
    if wanted.ndim != 1 or not wanted.size or wanted[0] < 0 or np.any(np.diff(wanted) < 0):
        raise ValueError(f"steps is {steps!r}; it must be a sorted sequence of numbers, 0 at least.")
    return wanted


def gradient_descent(
    table: ContextTable,
    rates: LearningRates,
    steps: Sequence[int] | np.ndarray,
    features: Features = "current",
) -> list[State]:
    """States after `steps` (sorted, ≥ 0) steps of full-batch gradient descent, finite learning rates included.

    Cost: one evaluation of `gradient` a step. Raises ValueError when the steps are not sorted.
    """
    speed, vector, done, found = rates.vector(), State.zero().vector(), 0, []
    for target in _checked_steps(steps):
        while done < target:
            vector = vector + speed * gradient(State.from_vector(vector), table, features).vector()
            done += 1
        found.append(State.from_vector(vector))
    return found
