"""The role table: which weight of a model plays which role in which layer. Interventions and probes speak roles, never names.

A place is a role and, for a role of a layer, the layer's number, counted from 0. Matrices are read so that they act on columns,
out = matrix · in; their shape is (…, out, in), with seeds in front where models are stacked. An embedding has a row a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeVar

import torch
from torch.nn import functional

MODEL_ROLES = ("embedding", "positions", "unembedding")
"""Roles of a model as a whole: token embedding, position embedding, the matrix from the residual stream to logits."""
LAYER_ROLES = ("query", "key", "value", "attention_output", "feed_forward_in", "feed_forward_out")
"""Roles of a layer. A feed-forward with one matrix has it as "feed_forward_out", since that is what it adds."""
PRODUCTS = {"value_output": ("attention_output", "value")}
"""Products of two roles that a model can hold as one matrix, left factor first, and that surgery can treat as one."""
ROLES = (*MODEL_ROLES, *LAYER_ROLES, *PRODUCTS, "key_query")
"""All roles. "key_query" is the matrix between query and key of a model that does not factor it."""


class Place(NamedTuple):
    """A role, and its layer; None for a role of the whole model."""

    role: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.role if self.layer is None else f"{self.role} {self.layer}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """The place that `str` writes: "feed_forward_out 1", "embedding". Raises ValueError for anything else."""
        role, _, number = str(text).partition(" ")
        if role not in ROLES:
            raise ValueError(f"role is {role!r}; it must be one of {', '.join(ROLES)}.")
        if (role in MODEL_ROLES) != (number == "") or not (number == "" or number.isdecimal()):
            kind = "no layer" if role in MODEL_ROLES else "a layer, counted from 0"
            raise ValueError(f"place is {text!r}; {role} has {kind} after it.")
        place = cls(role, int(number) if number else None)
        if str(place) != text:
            raise ValueError(f"place is {text!r}; it must be written {str(place)!r}.")
        return place


class Model(Protocol):
    """What surgery needs of a model; a frozen dataclass whose weights are a flat mapping."""

    @property
    def weights(self) -> Mapping[str, torch.Tensor]:
        """All weights by name."""

    @property
    def roles(self) -> RoleTable:
        """Which of them plays which role."""

    def with_weights(self, changed: Mapping[str, torch.Tensor]) -> Self:
        """A new model with these weights in their places; the others are shared, not copied."""


AnyModel = TypeVar("AnyModel", bound=Model)


def exchanged(
    weights: Mapping[str, torch.Tensor], changed: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """These weights with the changed ones in their places; the others are shared, not copied.

    Raises ValueError for an unknown name or a tensor of another shape (the seeds' axis apart, which must be one for all).
    """
    for name, tensor in changed.items():
        if name not in weights:
            raise ValueError(f"weight is {name!r}; it must be one of {', '.join(weights)}.")
        if tensor.shape[1:] != weights[name].shape[1:]:
            shapes = tuple(tensor.shape[1:]), tuple(weights[name].shape[1:])
            raise ValueError(f"weight {name} has shape {shapes[0]}; it must be {shapes[1]}.")
    found = {**weights, **changed}
    if len({len(tensor) for tensor in found.values()}) != 1:
        raise ValueError("weights are stacks of different heights; each must have the same number of seeds.")
    return found


@dataclass(frozen=True)
class RoleTable:
    """Place → name of a weight.

    - `names`: what there is. `absent`: places that a reader may ask for and that this model lacks, each with the reason.
    """

    names: Mapping[Place, str]
    absent: Mapping[Place, str]

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return 1 + max((place.layer for place in self.names if place.layer is not None), default=-1)

    def places(self, *, layers: Sequence[int] | None = None) -> list[Place]:
        """Every place that has a weight, in the order of `ROLES`, layer by layer; of some layers alone if given."""
        chosen = [one for one in self.names if layers is None or one.layer in layers]
        return sorted(chosen, key=lambda one: (one.layer is not None, one.layer or 0, ROLES.index(one.role)))

    def name(self, role: str, layer: int | None = None) -> str:
        """The weight at a place. Raises ValueError, one sentence, for an unknown role or layer, or a place without a weight."""
        self.check(role, layer)
        place = Place(role, layer)
        if place in self.names:
            return self.names[place]
        reason = self.absent.get(place, "this model has no such weight")
        raise ValueError(f"place is {str(place)!r}; {reason}.")

    def has(self, role: str, layer: int | None = None) -> bool:
        """Whether a weight, or both factors of a product, are there. Raises ValueError for an unknown role or layer."""
        self.check(role, layer)
        wanted = [Place(one, layer) for one in PRODUCTS.get(role, ())]
        return Place(role, layer) in self.names or (bool(wanted) and all(one in self.names for one in wanted))

    def check(self, role: str, layer: int | None = None) -> None:
        """ValueError, one sentence, for a role or layer that does not exist."""
        if role not in ROLES:
            raise ValueError(f"role is {role!r}; it must be one of {', '.join(ROLES)}.")
        if role in MODEL_ROLES:
            if layer is not None:
                raise ValueError(
                    f"layer is {layer!r} with role {role!r}; it must be None, as it has no layer."
                )
        elif isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < self.n_layers:
            raise ValueError(f"layer is {layer!r}; it must be an integer from 0 to {self.n_layers - 1}.")


def matrix(model: Model, role: str, layer: int | None = None) -> torch.Tensor:
    """The matrix at a place; for a product that the model factors, the product. Shape (…, out, in).

    Raises ValueError for an unknown role or layer, or a place without a weight.
    """
    if not _is_factored(model, role, layer):
        return model.weights[model.roles.name(role, layer)]
    left, right = (model.weights[model.roles.name(one, layer)] for one in PRODUCTS[role])
    return left @ right


def with_matrix(model: AnyModel, role: str, layer: int | None, new: torch.Tensor) -> AnyModel:
    """The model with another matrix at a place. Raises ValueError for an unknown place, or a matrix of another shape.

    A product that the model factors becomes its left factor, and the right factor the identity; where the right factor is not
    square, both are made from the product's singular components, which must not be more than fit: ValueError otherwise.
    """
    names = PRODUCTS[role] if _is_factored(model, role, layer) else (role,)
    left, right = (model.roles.name(names[place], layer) for place in (0, -1))
    shape = (*model.weights[left].shape[:-1], model.weights[right].shape[-1])
    if new.shape != shape:
        raise ValueError(
            f"matrix for {Place(role, layer)} has shape {tuple(new.shape)}; it must be {tuple(shape)}."
        )
    if left == right:
        return model.with_weights({left: new})
    inner, size = model.weights[right].shape[-2:]
    if inner == size:
        identity = torch.eye(size, dtype=new.dtype, device=new.device).expand_as(model.weights[right])
        return model.with_weights({left: new, right: identity.clone()})
    u, s, vt = torch.linalg.svd(new.double(), full_matrices=False)
    if bool((s[..., inner:] > 1e-6 * s[..., :1]).any()):
        raise ValueError(
            f"matrix for {Place(role, layer)} has rank above {inner}, the width between its factors."
        )
    root = s[..., :inner].sqrt()
    unused = max(0, inner - s.shape[-1])
    factors = {
        left: functional.pad(u[..., :inner] * root[..., None, :], (0, unused)),
        right: functional.pad(root[..., None] * vt[..., :inner, :], (0, 0, 0, unused)),
    }
    return model.with_weights({name: factor.to(new.dtype) for name, factor in factors.items()})


def _is_factored(model: Model, role: str, layer: int | None) -> bool:
    model.roles.check(role, layer)
    return role in PRODUCTS and Place(role, layer) not in model.roles.names
