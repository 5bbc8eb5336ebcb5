"""Predictions: what mathematics says a transformer's memory and reasoning should do.

This package needs numpy, scipy and sympy only. It never imports torch, matplotlib or `sims`, so that agreement with a
simulation is evidence and not shared code. Its topics are imported when they are first asked for.
"""

import importlib
from types import ModuleType

__all__ = [
    "associative_memory",
    "matching",
    "noisy_recall",
    "parallel_reasoning",
    "problems",
    "small_initialisation",
    "symbols",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"theory.{name}")
    raise AttributeError(f"module 'theory' has no attribute {name!r}")
