"""Streams of random numbers, one for each (experiment, purpose, seed).

The config is never part of the key: runs with equal seeds share data and initialisation across the cells of a
grid, which makes comparisons paired, and a new field or a new purpose shifts no other stream.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _words(text: str) -> tuple[int, ...]:
    """Four 32-bit words of a text: the same in every process, which `hash` is not."""
    digest = hashlib.sha256(text.encode()).digest()
    return tuple(int.from_bytes(digest[start : start + 4], "little") for start in range(0, 16, 4))


def seed_sequence(experiment: str, purpose: str, seed: int) -> np.random.SeedSequence:
    """The root of a stream. Raises ValueError when the seed is no integer ≥ 0, or a text is empty."""
    for name, text in (("experiment", experiment), ("purpose", purpose)):
        if not isinstance(text, str) or not text:
            raise ValueError(f"{name} is {text!r}; it must be a text that is not empty.")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}; it must be an integer, at least 0.")
    return np.random.SeedSequence(entropy=int(seed), spawn_key=_words(experiment) + _words(purpose))


def generator(experiment: str, purpose: str, seed: int) -> np.random.Generator:
    """A numpy generator for one purpose ("data", "initialisation", …) of one seed; the same on every
    machine."""
    return np.random.default_rng(seed_sequence(experiment, purpose, seed))


def torch_generator(experiment: str, purpose: str, seed: int, device: str = "cpu") -> torch.Generator:
    """A torch generator for one purpose of one seed.

    Torch promises equal numbers neither across its versions nor across devices; draw with numpy what must
    agree. Its CPU generator keeps 32 bits of a seed: among 1000 streams two coincide with probability 1e-4.
    """
    import torch

    state = int(seed_sequence(experiment, purpose, seed).generate_state(1, np.uint64)[0])
    return torch.Generator(device=device).manual_seed(state)
