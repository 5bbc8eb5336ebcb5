"""Interventions on one matrix of a pretrained model, in its own memory, undone bit for bit when the block ends.

Each is a context manager: inside the block the model has another matrix at the place and is the same elsewhere, afterwards it
is as it was, also when the block raises. Biases stay. Interventions at several places nest, at one place they do not. One copy of
the matrix is kept meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch

from sims.interventions.low_rank import Spectrum, kept_rank
from sims.models.language_model import TIED, LanguageModel, matrix, view
from sims.roles import Place

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
METHODS = ("exact", "randomised")
Matrix = torch.Tensor | Callable[[torch.Tensor], torch.Tensor]
"""A matrix, or a function that makes it from the present one."""


class Decompositions:
    """The exact singular components of a model's matrices: one decomposition a matrix, the whole rank axis from it.

    - `precision`: "float64", or "float32" for speed on a GPU (components are then good to about 1e-6 of the largest); half
      precision is decomposed in it too, and results are rounded to the model's type at the end.
    - `kept`: number of matrices whose components are kept, the latest used; None for all. One is enough for a table that goes
      through it place by place. Each takes the memory of min(out, in)·(out + in) numbers.

    The matrices are decomposed as they are when first asked for, and must not be trained on afterwards. Raises ValueError for
    another precision, or `kept` below 1.
    """

    def __init__(self, model: LanguageModel, precision: str = "float64", kept: int | None = 1) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")
        if kept is not None and (isinstance(kept, bool) or not isinstance(kept, int) or kept < 1):
            raise ValueError(f"kept is {kept!r}; it must be a positive integer, or None for all.")
        self.model, self.precision, self.kept = model, precision, kept
        self._found: OrderedDict[Place, Spectrum] = OrderedDict()

    def of(self, place: Place) -> Spectrum:
        """The components at a place, whose `matrix` is the model's own: only read it.

        Raises ValueError, one sentence, for an unknown place, one that an intervention holds changed, or a matrix with entries
        that are not finite. Cost: one SVD on the model's device, when it is not kept.
        """
        place = _checked(self.model, place)
        if place not in self._found:
            whole = matrix(self.model, place)
            if not bool(torch.isfinite(whole).all()):
                raise ValueError(f"matrix at {str(place)!r} has entries that are not finite.")
            while self.kept is not None and len(self._found) >= self.kept:
                self._found.popitem(last=False)
            self._found[place] = _Components(whole, PRECISIONS[self.precision])
        self._found.move_to_end(place)
        return self._found[place]


class _Components(Spectrum):
    """Components found at once, in a precision of choice (never below the matrix's own)."""

    def __init__(self, whole: torch.Tensor, precision: torch.dtype) -> None:
        super().__init__(whole)
        self.precision = torch.promote_types(precision, whole.dtype)
        _ = self._factors

    @cached_property
    def _factors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.linalg.svd(self.matrix.to(self.precision), full_matrices=False)


@contextmanager
def edited(model: LanguageModel, place: Place, new: Matrix) -> Iterator[LanguageModel]:
    """The model with another matrix at a place, inside the block.

    - `new`: the matrix, shape (out, in), or a function that makes it from the present one; rounded to the model's type.

    Raises ValueError, one sentence, with the model untouched: an unknown place or one without a matrix, embedding or unembedding
    of a model that ties them, a place that is changed already, another shape, entries that are not real numbers.
    Cost: one copy of the matrix, and one pass over it at each end.
    """
    place = _checked(model, place)
    if model.is_tied and place.role in TIED:
        raise ValueError(
            f"place is {str(place)!r}; embedding and unembedding of this model are one matrix, so it must be another place."
        )
    here = view(model, place)
    before = here.clone()
    model.changed.add(place)
    try:
        here.copy_(_fitting(new(matrix(model, place)) if callable(new) else new, here, place))
        del new
        yield model
    finally:
        here.copy_(before)
        model.changed.discard(place)


@contextmanager
def zeroed(model: LanguageModel, place: Place) -> Iterator[LanguageModel]:
    """The model with a zero matrix at a place, inside the block. Raises ValueError as `edited` does."""
    with edited(model, place, _zero) as changed:
        yield changed


@contextmanager
def truncated(
    model: LanguageModel,
    place: Place,
    rank_fraction: float,
    known: Decompositions | None = None,
    method: str = "exact",
    generator: torch.Generator | None = None,
) -> Iterator[LanguageModel]:
    """The model with the kept_rank(rank_fraction) largest components of a matrix alone, inside the block.

    - `known`: decompositions of this model, so that every fraction uses the same one; without them one SVD is made.
    - `method`: "exact", or "randomised" for `randomised_truncation`, which draws from `generator` (of the CPU).

    At fraction 1 the model is untouched, at 0 the matrix is zero; neither needs a decomposition. Raises ValueError as `edited`
    does, for a fraction outside [0, 1], another method, a generator missing, or decompositions of another model.
    """
    made = _truncation(
        model, _checked(model, place), rank_fraction, _of_this(model, known), method, generator
    )
    if made is None:
        yield model
        return
    with edited(model, place, made.pop()) as changed:
        yield changed


@contextmanager
def components_removed(
    model: LanguageModel, place: Place, components: Sequence[int], known: Decompositions | None = None
) -> Iterator[LanguageModel]:
    """The model without some components of a matrix, inside the block; 0 is the largest.

    With no component the model is untouched. Raises ValueError as `edited` does, for a component that is no integer from 0 to
    rank − 1, or decompositions of another model.
    """
    spectrum = _of_this(model, known).of(place) if len(components) else None
    if spectrum is None:
        _checked(model, place)
        yield model
        return
    try:
        made = [spectrum.drop(components)]
    except ValueError as error:
        raise ValueError(str(error).replace("places", "components", 1)) from None
    del spectrum
    with edited(model, place, made.pop()) as changed:
        yield changed


def randomised_truncation(
    whole: torch.Tensor, count: int, generator: torch.Generator, passes: int = 2
) -> torch.Tensor:
    """An approximate truncation to `count` components: projection on the range of a random sketch, without oversampling.

    A Gaussian sketch of `count` columns, `passes` rounds of power iteration, then the best approximation within its range (Halko,
    Martinsson, Tropp 2011, algorithms 4.4 and 5.1; the code of LASER, arXiv 2312.13558, truncates so). Never better than exact
    truncation, and equal to it for a matrix of rank `count` or less. Computed in float32 or wider, rounded to the matrix's type.
    """
    wide = whole.detach().to(torch.promote_types(torch.float32, whole.dtype))
    sketch = torch.randn(wide.shape[-1], count, generator=generator, dtype=wide.dtype).to(wide.device)
    basis = torch.linalg.qr(wide @ sketch).Q
    for _ in range(passes):
        basis = torch.linalg.qr(wide @ torch.linalg.qr(wide.mT @ basis).Q).Q
    return (basis @ (basis.mT @ wide)).to(whole.dtype)


def _zero(whole: torch.Tensor) -> torch.Tensor:
    return whole.new_zeros(()).expand(whole.shape)


def _truncation(
    model: LanguageModel,
    place: Place,
    rank_fraction: float,
    known: Decompositions,
    method: str,
    generator: torch.Generator | None,
) -> list[Matrix] | None:
    """None where the model stays as it is; else a list of the new matrix alone, to be popped, so that no frame holds it."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be one of {', '.join(METHODS)}.")
    if method == "randomised" and generator is None:
        raise ValueError("generator is None; the randomised method must have one.")
    whole = matrix(model, place)
    count = kept_rank(rank_fraction, whole.shape)
    if count == min(whole.shape):
        return None
    if count == 0:
        return [_zero]
    if generator is not None and method == "randomised":
        return [randomised_truncation(whole, count, generator)]
    return [known.of(place).keep_top(count)]


def _fitting(made: object, here: torch.Tensor, place: Place) -> torch.Tensor:
    """The new matrix in the shape of the view that it is written to. ValueError, one sentence, where it does not fit."""
    shape = (here.shape[0] * here.shape[1], here.shape[2])
    if not isinstance(made, torch.Tensor) or made.shape != shape:
        found = tuple(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        raise ValueError(f"new matrix at {str(place)!r} has shape {found}; it must be {shape}.")
    if made.dtype == torch.bool or made.is_complex():
        raise ValueError(f"new matrix at {str(place)!r} has type {made.dtype}; it must be real numbers.")
    if made.untyped_storage().data_ptr() == here.untyped_storage().data_ptr():
        made = made.clone()  # it may overlap what it is written to
    return made.detach().reshape(here.shape)


def _of_this(model: LanguageModel, known: Decompositions | None) -> Decompositions:
    if known is None:
        return Decompositions(model)
    if known.model is not model:
        raise ValueError(
            "known are decompositions of another model; they must be of the one that is changed."
        )
    return known


def _checked(model: LanguageModel, place: Place) -> Place:
    """The place itself; ValueError, one sentence, unless it has a matrix and is as it was."""
    place = Place(*place)
    model.roles.name(*place)
    if place in model.changed:
        raise ValueError(
            f"place is {str(place)!r}; it is changed already, so this change must wait for the end of that one."
        )
    return place
