"""Truncation and component removal by one exact singular value decomposition, which serves every rank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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

    def keep_each(self, counts: Sequence[int]) -> Iterator[torch.Tensor]:
        """`keep_top` of each count in turn, which must rise; every component is multiplied out once, in float64.

        Raises ValueError as `keep_top` does, and when the counts fall.
        """
        left, values, right = self._factors
        total, done = torch.zeros_like(self.matrix, dtype=torch.float64), 0
        for count in counts:
            self._check("keep_each", count)
            if count < done:
                raise ValueError(f"counts are {list(counts)}; they must rise.")
            more = slice(done, count)
            if count > done:
                total = total + (left[..., more] * values[..., None, more]) @ right[..., more, :]
            done = count
            yield self.matrix if count == self.rank else total.to(self.matrix.dtype)

    def drop_top(self, count: int) -> torch.Tensor:
        """Component removal: what is left without the `count` largest. None of them gives the matrix itself."""
        self._check("drop_top", count)
        if count == 0:
            return self.matrix
        return self._rebuild(slice(count, self.rank))

    def drop(self, places: torch.Tensor | Sequence[int]) -> torch.Tensor:
        """Component removal: what is left without the components at these places (0 is the largest), in the matrix's type.

        - `places`: int64, shape (n,) for the same places of every matrix, or (…, n) for places of each matrix's own.

        No place gives the matrix itself, bit for bit. Raises ValueError for a place that is no integer from 0 to rank − 1, or for
        places of another number of matrices.
        """
        given = torch.as_tensor(places, device=self.matrix.device)
        if given.numel() == 0:
            return self.matrix
        chosen = given.to(torch.int64)
        whole = not given.is_floating_point() and given.dtype != torch.bool
        if not whole or bool(((chosen < 0) | (chosen >= self.rank)).any()):
            raise ValueError(
                f"places are {given.tolist()}; each must be an integer from 0 to {self.rank - 1}."
            )
        stack = self.matrix.shape[:-2]
        if chosen.ndim == 0 or chosen.shape[:-1] not in ((), stack):
            shapes = f"(n,) or {(*stack, 'n')}".replace("'", "") if stack else "(n,)"
            raise ValueError(f"places have shape {tuple(chosen.shape)}; it must be {shapes}.")
        return self._rebuild(
            slice(0, self.rank), self.singular_values.scatter(-1, chosen.expand(*stack, -1), 0.0)
        )

    def _check(self, name: str, count: int) -> None:
        if isinstance(count, bool) or int(count) != count or not 0 <= count <= self.rank:
            raise ValueError(f"{name} is {count!r}; it must be an integer from 0 to {self.rank}.")

    def _rebuild(self, chosen: slice, changed: torch.Tensor | None = None) -> torch.Tensor:
        left, values, right = self._factors
        values = values if changed is None else changed
        rebuilt = (left[..., chosen] * values[..., None, chosen]) @ right[..., chosen, :]
        return rebuilt.to(self.matrix.dtype)
