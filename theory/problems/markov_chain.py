"""A Markov chain over tokens: the unigram of its first token and its bigrams, with the chains that the book uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from theory.problems import checks

TINY_SHAKESPEARE = Path(__file__).with_name("tiny_shakespeare_counts.csv")
"""Counts of characters and of neighbouring pairs, written by make_tiny_shakespeare_counts.py."""
TOLERANCE = 1e-9
"""By how much a row of probabilities may miss one; the row is then divided by its sum."""


@dataclass(frozen=True, eq=False)
class MarkovChain:
    """The first token is drawn from `initial`, every next one from the row of `transition` of the one before.

    - `initial`: probabilities of the first token, shape (n_tokens,).
    - `transition`: probability of the next token (column) given this one (row), shape (n_tokens, n_tokens).

    The arrays are kept as read-only float64. Raises ValueError when the matrix is not square, the shapes do not fit, an entry is
    negative or not finite, or a row does not sum to one (to 1e-9).
    """

    initial: np.ndarray
    transition: np.ndarray

    def __post_init__(self) -> None:
        try:
            initial, transition = np.array(self.initial, float), np.array(self.transition, float)
        except (TypeError, ValueError):
            raise ValueError("initial and transition must be arrays of numbers.") from None
        if transition.ndim != 2 or transition.shape[0] != transition.shape[1] or not transition.size:
            raise ValueError(f"transition has shape {transition.shape}; it must be a square matrix.")
        if initial.shape != transition.shape[:1]:
            raise ValueError(
                f"initial has shape {initial.shape}; it must be ({len(transition)},), a probability for each row of transition."
            )
        for name, rows in (("initial", initial[None]), ("transition", transition)):
            if not np.all(np.isfinite(rows) & (rows >= 0)):
                row = int(np.argmin(np.all(np.isfinite(rows) & (rows >= 0), axis=1)))
                raise ValueError(
                    f"{name} has an entry {rows[row].min()} in row {row}; probabilities must be finite, and 0 at least."
                )
            worst = int(np.argmax(abs(rows.sum(1) - 1)))
            if abs(rows[worst].sum() - 1) > TOLERANCE:
                raise ValueError(f"{name} has a row {worst} with sum {rows[worst].sum():.6g}; it must be 1.")
        for name, array in (
            ("initial", initial / initial.sum()),
            ("transition", transition / transition.sum(1, keepdims=True)),
        ):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary."""
        return len(self.initial)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, MarkovChain)
            and np.array_equal(self.initial, other.initial)
            and np.array_equal(self.transition, other.transition)
        )

    def __hash__(self) -> int:
        return hash((self.initial.tobytes(), self.transition.tobytes()))

    @classmethod
    def uniform(cls, n_tokens: int) -> MarkovChain:
        """Independent tokens, each uniform on `n_tokens`."""
        size = checks.integer("n_tokens", n_tokens, 1)
        return cls(np.full(size, 1 / size), np.full((size, size), 1 / size))

    @classmethod
    def from_counts(cls, initial: np.ndarray, transition: np.ndarray) -> MarkovChain:
        """The chain with the frequencies of counted tokens (n_tokens,) and pairs (n_tokens, n_tokens).

        Raises ValueError when a token was never followed by any, besides what the class raises.
        """
        first, pairs = np.asarray(initial, float), np.asarray(transition, float)
        for name, table in (("initial", first), ("transition", pairs)):
            if not np.all(np.isfinite(table) & (table >= 0)):
                raise ValueError(f"{name} has a count {table.min()}; counts must be finite, and 0 at least.")
        if not first.sum() > 0:
            raise ValueError("initial has no counts; at least one token must have been seen.")
        if pairs.ndim == 2 and not np.all(pairs.sum(1) > 0):
            row = int(np.argmin(pairs.sum(1)))
            raise ValueError(f"transition has no counts in row {row}; every token must be followed by one.")
        rows = pairs / pairs.sum(1, keepdims=True) if pairs.ndim == 2 else pairs
        return cls(first / first.sum(), rows)

    @classmethod
    def zipf_dirichlet(
        cls, n_tokens: int, exponent: float = 1.0, concentration: float = 0.3, seed: int = 0
    ) -> MarkovChain:
        """A stand-in for text: token k (from 0) has frequency ∝ (k + 1)^−exponent, and the rows vary around it.

        Each row is a Dirichlet draw with parameters concentration · n_tokens · frequency: small concentrations make rows unlike
        each other. The same seed gives the same chain everywhere. Raises ValueError for an exponent that is negative or
        not finite, or a concentration that is not above 0.
        """
        size = checks.integer("n_tokens", n_tokens, 1)
        if not (np.isfinite(exponent) and exponent >= 0):
            raise ValueError(f"exponent is {exponent}; it must be finite and at least 0.")
        if not (np.isfinite(concentration) and concentration > 0):
            raise ValueError(f"concentration is {concentration}; it must be finite and above 0.")
        frequency = np.arange(1, size + 1.0) ** -exponent
        frequency /= frequency.sum()
        rng = np.random.default_rng(np.random.SeedSequence([size, checks.integer("seed", seed, 0)]))
        rows = rng.gamma(concentration * size * frequency, size=(size, size)) + 1e-12
        return cls(frequency, rows / rows.sum(1, keepdims=True))

    @classmethod
    def tiny_shakespeare(cls) -> MarkovChain:
        """Characters of Tiny Shakespeare (65 of them, in the order of `tiny_shakespeare_characters`): all pairs, overlapping."""
        table = _tiny_shakespeare_table()
        return cls.from_counts(table[:, 1], table[:, 2:])

    def with_noise_token(self) -> MarkovChain:
        """The chain with one more token, last, that the chain never enters and leaves as if it started anew."""
        size = self.n_tokens
        rows = np.zeros((size + 1, size + 1))
        rows[:size, :size] = self.transition
        rows[size, :size] = self.initial
        return MarkovChain(np.append(self.initial, 0.0), rows)


@cache
def _tiny_shakespeare_table() -> np.ndarray:
    """Rows of characters: code point, count, and the counts of each character after it; int, shape (65, 67)."""
    return np.loadtxt(TINY_SHAKESPEARE, delimiter=",", dtype=int, comments="#")


def tiny_shakespeare_characters() -> Sequence[str]:
    """The 65 characters of the table, by token number."""
    return tuple(chr(code) for code in _tiny_shakespeare_table()[:, 0])
