"""Weights of a model as a safetensors file, written whole or not at all; nothing is ever unpickled.

A file of `sims.trainings` has the state of the training beside the weights, under names that begin with "training.".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from sims import records

if TYPE_CHECKING:  # torch takes a second to import, and `import sims` alone needs none of it
    import torch

STATE = "training."
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


class Model(Protocol):
    """A frozen dataclass with weights."""

    @property
    def weights(self) -> Mapping[str, torch.Tensor]:
        """All of them, frozen ones too: name → tensor with a leading axis of seeds."""

    def with_weights(self, changed: Mapping[str, torch.Tensor], /) -> Self:
        """A new model with these weights in their places. Raises ValueError for unknown names and other shapes."""


M = TypeVar("M", bound=Model)


def save_checkpoint(path: str | Path, model: Model, details: Mapping[str, Any]) -> None:
    """Write all weights of a model as safetensors, whole or not at all; `details` are plain data, kept as one JSON text.

    Raises ValueError for a weight whose name begins with "training.", and OSError when the place cannot be written.
    """
    write(Path(path), model.weights, {}, details)


def load_checkpoint(path: str | Path, model: M) -> M:
    """The model with the weights of a safetensors file, also one of the store; they go to the device of the model's own.

    Raises FileNotFoundError, and ValueError, one sentence, for a pickle file, a file that is no safetensors, and one whose
    names, shapes or dtypes differ from the model's.
    """
    stored = read(Path(path))
    check_weights(path, stored.weights, model.weights)
    return model.with_weights(
        {name: one.to(model.weights[name].device) for name, one in stored.weights.items()}
    )


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: weights, the state of their training if it is there, and plain data."""

    weights: dict[str, torch.Tensor]
    state: dict[str, torch.Tensor]
    details: dict[str, Any]


def write(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    details: Mapping[str, Any],
) -> None:
    """Write weights, and the state of their training. Raises what `save_checkpoint` does."""
    from safetensors.torch import save

    try:
        metadata = {records.DETAILS: json.dumps(dict(details), sort_keys=True)}
    except TypeError as error:
        raise ValueError(f"details of checkpoint {path.name} are not plain data: {error}.") from error
    if clashing := [name for name in weights if name.startswith(STATE)]:
        raise ValueError(f"weight is {clashing[0]!r}; its name must not begin with {STATE!r}.")
    tensors = {**weights, **{f"{STATE}{name}": one for name, one in state.items()}}
    copies = {name: one.detach().to("cpu", copy=True).contiguous() for name, one in tensors.items()}
    content = save(copies, metadata)
    records.write_file(path, lambda partial: partial.write_bytes(content))


def read(path: Path) -> Checkpoint:
    """All that a file holds, on the CPU. Raises what `load_checkpoint` does for a file that cannot be read."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist; it must be a safetensors file.")
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            details = json.loads((opened.metadata() or {}).get(records.DETAILS, "{}"))
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        if _is_pickle(path):
            raise ValueError(
                f"checkpoint {path} is a pickle file; only safetensors are loaded, as unpickling runs code."
            ) from None
        raise ValueError(
            f"checkpoint {path} is corrupt, or not a safetensors file, which it must be."
        ) from error
    weights = {name: one for name, one in tensors.items() if not name.startswith(STATE)}
    state = {name.removeprefix(STATE): tensors[name] for name in tensors.keys() - weights.keys()}
    return Checkpoint(weights, state, details if isinstance(details, dict) else {})


def _is_pickle(path: Path) -> bool:
    """Whether a file that is no safetensors is a pickle, by its first bytes (a zip of `torch.save`, a pickle) or its name."""
    with path.open("rb") as opened:
        head = opened.read(4)
    return (
        head == b"PK\x03\x04"
        or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5")
        or path.suffix in PICKLE_SUFFIXES
    )


def check_weights(
    path: str | Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> None:
    """ValueError that names the first weight by which a file is of another configuration."""
    for name in (*wanted, *(found.keys() - wanted.keys())):
        told, asked = (
            f"{one[name].dtype} of shape {tuple(one[name].shape)}" if name in one else "absent"
            for one in (found, wanted)
        )
        if told != asked:
            raise ValueError(
                f"checkpoint {path} is of another configuration: weight {name} is {told}; it must be {asked}."
            )
