"""What can be scored without following the path: the honest baseline of a chain task, and the accuracy that the rule predicts.

A task whose label may be the chain's end is no test: the end is the one token that stands only on the right of a pair, and
sum(right tokens) − sum(left tokens) = end − beginning finds it without any matching. So a tail is kept beyond the label.
Even then a guesser need not choose among all tokens. `guessing_accuracy` counts what it can rule out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from theory.problems.checks import integer


@dataclass(frozen=True)
class ChainTask:
    """Pairs c_0 → c_1 → … → c_m in random order, then a start token c_s; the label is c_{s+k}.

    - `n_pairs`: m. `n_steps`: k, at least 1. `tail`: pairs kept beyond the label, at least 1.
    - `n_distractors`: pairs of a second chain, among those of the first; 0 for none.

    s is uniform on 0 … m − k − tail. Raises ValueError when no start is left.
    """

    n_pairs: int
    n_steps: int
    tail: int = 2
    n_distractors: int = 0

    def __post_init__(self) -> None:
        integer("n_steps", self.n_steps, 1)
        integer("tail", self.tail, 1)
        integer("n_distractors", self.n_distractors, 0)
        if integer("n_pairs", self.n_pairs, 1) < self.n_steps + self.tail:
            raise ValueError(
                f"n_pairs is {self.n_pairs}; it must be at least {self.n_steps + self.tail} (n_steps + tail)."
            )

    @property
    def n_tokens(self) -> int:
        """Tokens of a sentence."""
        return self.n_pairs + 1 + (self.n_distractors + 1 if self.n_distractors else 0)

    @property
    def starts(self) -> range:
        """Possible indices s of the start token."""
        return range(self.n_pairs - self.n_steps - self.tail + 1)


def guessing_accuracy(task: ChainTask, reach: int, from_ends: int = 0) -> Fraction:
    """Accuracy of the best guess of a reader that falls short of the label: reach < n_steps.

    It knows the path up to `reach` steps from the start token, forwards and backwards, and which two tokens stand in one
    pair only (the chains' ends, by counting); besides, `from_ends` further tokens from either end of the first chain, of those
    that the task never makes a label. All other tokens are equally likely labels, as renaming them changes nothing it knows.
    So the accuracy is the mean over s of 1 / (tokens not ruled out).

    Over all orders, where pairs stand tells nothing more. Over the orders of too short a reach alone it does (with three
    layers and four steps, the fourth pair of the path then stands late more often): there this number divided by
    P(reach < n_steps) bounds every guess. Raises ValueError when reach is not in 0 … n_steps − 1.
    """
    steps, inward = integer("reach", reach, 0), integer("from_ends", from_ends, 0)
    size, label = task.n_pairs, task.n_steps
    if steps >= label:
        raise ValueError(f"reach is {steps}; it must be less than n_steps, which is {label}.")
    second = max(0, task.n_distractors - 1)
    begin = set(range(min(inward, label - 1) + 1))
    end = set(range(size - min(inward, task.tail - 1), size + 1))
    total = Fraction(0)
    for start in task.starts:
        near = set(range(max(0, start - steps), start + steps + 1))
        total += Fraction(1, size + 1 - len(near | begin | end) + second)
    return total / len(task.starts)


def chance(task: ChainTask, reach: int = 0) -> dict[str, Fraction]:
    """Accuracy of each simple shortcut; the baseline to report is the largest.

    - `any_token`: a token of the sentence at random, 1/(m + 1) without a second chain.
    - `last_pair`: the right token of the sentence's last pair, 1/m without a second chain.
    - `not_the_ends`: a token that is neither the start nor an end of a chain, `guessing_accuracy` at reach 0.
    - `unreached`: of those, one not known either, as a reader of reach min(reach, n_steps − 1) guesses.
    - `unreached_from_all_sides`: the same for one that follows the chain as far from its ends.
    """
    steps = min(integer("reach", reach, 0), task.n_steps - 1)
    return {
        "any_token": Fraction(1, task.n_tokens),
        "last_pair": Fraction(1, task.n_pairs + task.n_distractors),
        "not_the_ends": guessing_accuracy(task, 0),
        "unreached": guessing_accuracy(task, steps),
        "unreached_from_all_sides": guessing_accuracy(task, steps, steps),
    }


def rule_accuracy(task: ChainTask, law: Mapping[int, Fraction]) -> Fraction:
    """Accuracy when orders of reach ≥ n_steps are answered and all others guessed (`guessing_accuracy` at their reach).

    A guess that uses the places of pairs does a little better (see there); this one does not.

    - `law`: reach → probability, as `reach_distribution` gives it, for n_pairs ≥ n_steps; {upper: 1} without the causal
      mask.
    """
    return sum(
        (
            probability * (1 if steps >= task.n_steps else guessing_accuracy(task, steps))
            for steps, probability in law.items()
        ),
        Fraction(0),
    )
