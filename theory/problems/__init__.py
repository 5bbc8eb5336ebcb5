"""Frozen problem definitions: the only part of `theory` that the simulations may see."""

from theory.problems.associative_memory import AssociativeMemory
from theory.problems.markov_chain import MarkovChain, tiny_shakespeare_characters
from theory.problems.noisy_recall import NoisyRecall

__all__ = ["AssociativeMemory", "MarkovChain", "NoisyRecall", "tiny_shakespeare_characters"]
