"""Truncation and component removal by one exact singular value decomposition, which serves every rank."""

from __future__ import annotations

import math
from functools import cached_property

import torch


def kept_rank(rank_fraction: float, shape: tuple[int, ...]) -> int:
    """floor(rank_fraction × smaller of the last two axes), with a margin of 1e-9 for rounding.

    Raises ValueError for a fraction outside [0, 1].
    """
    if not 0 <= rank_fraction <= 1:
        raise ValueError(f"rank_fraction is {rank_fraction}; it must be in [0, 1].")
    return math.floor(rank_fraction * min(shape[-2:]) + 1e-9)


class Spectrum:
    """Singular components of a matrix, or of a stack of them (leading axes), largest first; computed once, when asked for.

    The decomposition is exact and in float64; results come back in the matrix's own type. Cost: one SVD for each matrix,
    then one product for each cut.
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix.detach()

    @cached_property
    def _factors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.linalg.svd(self.matrix.double(), full_matrices=False)

    @property
    def rank(self) -> int:
        """Number of components, the smaller side of the matrix."""
        return min(self.matrix.shape[-2:])

    @property
    def singular_values(self) -> torch.Tensor:
        """Singular values, falling, shape (…, rank), float64."""
        return self._factors[1]

    @property
    def left(self) -> torch.Tensor:
        """Left singular vectors as columns, shape (…, rows, rank), float64."""
        return self._factors[0]

    @property
    def right(self) -> torch.Tensor:
        """Right singular vectors as rows, shape (…, rank, columns), float64."""
        return self._factors[2]

    def keep_top(self, count: int) -> torch.Tensor:
        """Truncation: the sum of the `count` largest components. All of them give the matrix itself, bit for bit."""
        self._check("keep_top", count)
        if count == self.rank:
            return self.matrix
        return self._rebuild(slice(0, count))

    def drop_top(self, count: int) -> torch.Tensor:
        """Component removal: what is left without the `count` largest. None of them gives the matrix itself."""
        self._check("drop_top", count)
        if count == 0:
            return self.matrix
        return self._rebuild(slice(count, self.rank))

    def _check(self, name: str, count: int) -> None:
        if isinstance(count, bool) or int(count) != count or not 0 <= count <= self.rank:
            raise ValueError(f"{name} is {count!r}; it must be an integer from 0 to {self.rank}.")

    def _rebuild(self, chosen: slice) -> torch.Tensor:
        left, values, right = self._factors
        rebuilt = (left[..., chosen] * values[..., None, chosen]) @ right[..., chosen, :]
        return rebuilt.to(self.matrix.dtype)
