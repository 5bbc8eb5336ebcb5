"""Checks shared by the problem definitions: each raises ValueError with one sentence naming the field and the value."""

from __future__ import annotations

import math
from numbers import Integral, Real


def integer(name: str, value: object, least: int) -> int:
    """`value` as an int when it is an integer ≥ `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} is {value!r}; it must be an integer, at least {least}.")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}.")
    return int(value)


def probability_below_one(name: str, value: object) -> float:
    """`value` as a float when it is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} is {value!r}; it must be a number in [0, 1).")
    if not (math.isfinite(value) and float(value) >= 0 and float(value) < 1):
        raise ValueError(f"{name} is {value}; it must be in [0, 1).")
    return float(value)
