"""Frozen problem definitions: the only part of `theory` that the simulations may see."""

from theory.problems.associative_memory import AssociativeMemory

__all__ = ["AssociativeMemory"]
