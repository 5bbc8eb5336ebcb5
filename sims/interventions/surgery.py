"""Surgery on the weights of any model, by role: pure functions that give a new model and leave the old one as it was.

Truncation keeps the largest singular components of a matrix, component removal drops some of them; both take the matrix's
`Spectrum`, so that one decomposition serves every rank. A place is a role and a layer, or the product "value_output" and a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from sims.interventions.low_rank import Spectrum, kept_rank
from sims.roles import AnyModel, Model, matrix, with_matrix


def spectrum(model: Model, role: str, layer: int | None = None) -> Spectrum:
    """Singular components of the matrix or product at a place; the decomposition is made when first used.

    Raises ValueError, one sentence, for an unknown role or layer, or a place without a weight.
    """
    return Spectrum(matrix(model, role, layer))


def truncated(
    model: AnyModel, role: str, layer: int | None, rank_fraction: float, known: Spectrum | None = None
) -> AnyModel:
    """The model with its matrix cut down to the kept_rank(rank_fraction) largest components.

    - `known`: the spectrum of this very matrix, when it is at hand; without it one SVD is made.

    At fraction 1 the model itself is returned, at 0 the matrix is zero. Raises ValueError as `spectrum` does, and for a fraction
    outside [0, 1].
    """
    found = _spectrum(model, role, layer, known)
    count = kept_rank(rank_fraction, found.matrix.shape)
    return model if count == found.rank else with_matrix(model, role, layer, found.keep_top(count))


def without_components(
    model: AnyModel,
    role: str,
    layer: int | None,
    places: torch.Tensor | Sequence[int],
    known: Spectrum | None = None,
) -> AnyModel:
    """The model without the components of its matrix at these places; 0 is the largest.

    - `places`: int64, shape (n,), or (seeds, n) for each seed's own. Raises ValueError as `Spectrum.drop` and `spectrum` do.
    """
    return with_matrix(model, role, layer, _spectrum(model, role, layer, known).drop(places))


def zeroed(model: AnyModel, role: str, layer: int | None = None) -> AnyModel:
    """The model with a zero matrix at a place; with "feed_forward_out" its feed-forward is gone. Raises as `spectrum` does."""
    return with_matrix(model, role, layer, torch.zeros_like(matrix(model, role, layer)))


def without_feed_forward(model: AnyModel, layer: int) -> AnyModel:
    """The model without the feed-forward of a layer; the model itself when that layer has none. Raises as `spectrum` does."""
    return zeroed(model, "feed_forward_out", layer) if model.roles.has("feed_forward_out", layer) else model


def truncations(
    model: AnyModel,
    role: str,
    layer: int | None,
    rank_fractions: Sequence[float],
    known: Spectrum | None = None,
) -> Iterator[AnyModel]:
    """`truncated` for each of the fractions, which must rise: one decomposition, and each component is added once.

    Cost: one SVD and one product of full size for the whole axis. Raises ValueError as `truncated` does, and for fractions that
    fall.
    """
    found = _spectrum(model, role, layer, known)
    counts = [kept_rank(one, found.matrix.shape) for one in rank_fractions]
    for count, kept in zip(counts, found.keep_each(counts), strict=True):
        yield model if count == found.rank else with_matrix(model, role, layer, kept)


def randomised(
    model: AnyModel, role: str, layer: int | None, generators: Sequence[torch.Generator]
) -> AnyModel:
    """The control: a Gaussian matrix of the same Frobenius norm at a place, drawn by each seed's own (CPU) generator.

    Raises ValueError as `spectrum` does, or when there is not one generator a seed.
    """
    old = matrix(model, role, layer)
    if len(generators) != len(old):
        raise ValueError(f"generators has {len(generators)} entries; it must have {len(old)}, one a seed.")
    drawn = torch.stack(
        [torch.randn(old.shape[1:], generator=one, dtype=torch.float64) for one in generators]
    )
    norms = torch.linalg.matrix_norm(old.detach().double(), keepdim=True)
    scaled = drawn.to(old.device) * norms / torch.linalg.matrix_norm(drawn, keepdim=True).to(old.device)
    return with_matrix(model, role, layer, scaled.to(old.dtype))


def _spectrum(model: Model, role: str, layer: int | None, known: Spectrum | None) -> Spectrum:
    if known is None:
        return spectrum(model, role, layer)
    if not model.roles.has(role, layer):
        model.roles.name(role, layer)  # says why not
    return known
