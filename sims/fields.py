"""Fields of a config: which types they may have, and values checked against them, from Python or from
text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


def kinds(config_type: Any) -> dict[str, Any]:
    """Field name → its type: bool, int, float, str or Literal of texts; for tuples, (the type of an item,).

    Raises ValueError when the config is no frozen dataclass, a field lacks a default, or a type is not flat.
    """
    return dict(_kinds(config_type))


@cache
def _kinds(config_type: Any) -> dict[str, Any]:
    parameters = getattr(config_type, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise ValueError(f"{config_type} must be a frozen dataclass.")
    hints = get_type_hints(config_type)
    found = {}
    for field in dataclasses.fields(config_type):
        if field.default is dataclasses.MISSING:
            raise ValueError(
                f"field {field.name} of {config_type.__name__} has no default; every field needs one."
            )
        hint = hints[field.name]
        items = set(get_args(hint)) - {Ellipsis} if get_origin(hint) is tuple else {hint}
        if len(items) != 1 or not all(item in WORDS or get_origin(item) is Literal for item in items):
            raise ValueError(
                f"field {field.name} has type {hint}; it must be bool, int, float, str or a tuple of one."
            )
        item = items.pop()
        found[field.name] = (item,) if get_origin(hint) is tuple else item
    return found


def _kind(config_type: type, name: str) -> Any:
    known = kinds(config_type)
    if name not in known:
        raise ValueError(f"field is {name!r}; it must be one of: {', '.join(known)}.")
    return known[name]


def is_axis(config_type: type, name: str, value: Any) -> bool:
    """Whether an override gives several values. For a field that is itself a tuple, a flat sequence is one
    value."""
    if not isinstance(value, tuple | list | range | np.ndarray):
        return False
    nested = any(isinstance(item, tuple | list | np.ndarray) for item in value)
    return nested or not isinstance(_kind(config_type, name), tuple)


def axis(config_type: type, name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """The values of one grid field, checked: at least one, none twice. Tuples make no axis: ValueError."""
    if isinstance(_kind(config_type, name), tuple):
        raise ValueError(f"field {name} holds a tuple; a grid runs over fields with a single value.")
    if len(values) == 0:
        raise ValueError(f"field {name} has no values; give at least one.")
    checked = tuple(value(config_type, name, one) for one in values)
    if len(set(checked)) < len(checked):
        raise ValueError(f"field {name} is {checked}; each value must stand there once.")
    return checked


def value(config_type: type, name: str, given: Any) -> Any:
    """One value for a field as plain Python data; ValueError names the field, the value and the type it must
    have.

    An integer passes for a number; nothing else is converted: no text to number, no number to bool.
    """
    kind = _kind(config_type, name)
    if isinstance(kind, tuple):
        if not isinstance(given, tuple | list | range | np.ndarray):
            raise ValueError(f"field {name} is {given!r}; it must be a tuple, each item {_word(kind[0])}.")
        return tuple(_single(name, one, kind[0]) for one in given)
    return _single(name, given, kind)


def check(config: Any) -> None:
    """ValueError as `value` raises it, for the first field of a config whose value is not of its type."""
    for name in kinds(type(config)):
        value(type(config), name, getattr(config, name))


def _word(kind: Any) -> str:
    return f"one of {', '.join(get_args(kind))}" if get_origin(kind) is Literal else WORDS[kind]


def _single(name: str, given: Any, kind: Any) -> Any:
    truth = isinstance(given, bool | np.bool_)
    if kind is bool and truth:
        return bool(given)
    if kind is int and isinstance(given, Integral) and not truth:
        return int(given)
    if kind is float and isinstance(given, Real) and not truth:
        return float(given)
    if kind is str and isinstance(given, str):
        return str(given)
    if get_origin(kind) is Literal and given in get_args(kind):
        return given
    raise ValueError(f"field {name} is {given!r}; it must be {_word(kind)}.")


def parse(config_type: type, name: str, text: str) -> Any:
    """A value written on the command line: `0.3`; `true`; `1,2,3` for a tuple, or for an axis of a plain
    field."""
    kind = _kind(config_type, name)
    if isinstance(kind, tuple):
        return tuple(_read(name, item, kind[0]) for item in text.split(",") if item.strip())
    items = tuple(_read(name, item, kind) for item in text.split(","))
    return items if len(items) > 1 else items[0]


def _read(name: str, text: str, kind: Any) -> Any:
    text = text.strip()
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text) if kind in (int, float) else _single(name, text, kind)
    except (KeyError, ValueError):
        raise ValueError(f"field {name} is {text!r}; it must be {_word(kind)}.") from None


def written(given: Any) -> str:
    """A value as `parse` reads it back."""
    if isinstance(given, tuple):
        return ",".join(written(item) for item in given)
    return str(given).lower() if isinstance(given, bool) else str(given)
