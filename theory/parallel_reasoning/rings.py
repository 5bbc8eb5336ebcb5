"""Rings: chains whose last pair leads back to the first token, so that no end tells anything.

A model that follows the path from the start does not notice. One that counts from the chain's end does, and so does one that
rules out what it knows.
"""

from __future__ import annotations

from fractions import Fraction

from theory.problems.checks import integer


def ring_accuracy(n_tokens: int, n_steps: int, reach: int) -> Fraction:
    """Accuracy on a ring, a chain whose last pair leads back to its first token, of a reader that rules out what it knows.

    It knows the tokens up to `reach` steps from the start in both directions. On a ring of n tokens the label, k steps on, is as
    well n − k steps back. If k ≤ reach the reader follows the path: 1. Else, if n − k ≤ reach, it knows the label as a token
    behind the start, and rules it out: 0. Else it guesses among the n − 2 reach − 1 tokens that it does not know; where this is
    one, it is right without having followed the path.

    Raises ValueError for a ring of fewer than 2 tokens, n_steps not in 1 … n_tokens − 1, or a negative reach.
    """
    size, label, steps = (
        integer("n_tokens", n_tokens, 2),
        integer("n_steps", n_steps, 1),
        integer("reach", reach, 0),
    )
    if label >= size:
        raise ValueError(f"n_steps is {label}; it must be less than n_tokens, which is {size}.")
    if label <= steps:
        return Fraction(1)
    if size - label <= steps:
        return Fraction(0)
    return Fraction(1, size - 2 * steps - 1)
