"""The training loop: an optimiser, a loss, and probes on a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

OPTIMISERS = ("sgd", "adam")


class DivergedError(ArithmeticError):
    """Training reached a loss that is not finite; the message names the step."""


def make_optimiser(
    parameters: Sequence[torch.Tensor] | Sequence[dict[str, Any]],
    optimiser: str,
    learning_rate: float,
    momentum: float = 0.0,
) -> torch.optim.Optimizer:
    """SGD with heavy-ball momentum, or Adam with its usual constants (which takes no momentum).

    - `parameters`: tensors, or PyTorch's parameter groups, `{"params": [...], "lr": ...}`, each with a learning rate of its own.

    Raises ValueError for an unknown name, a learning rate that is not positive, a momentum outside [0, 1), or Adam with one.
    """
    check_optimiser(optimiser, learning_rate, momentum)
    if optimiser == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate)
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)


def check_optimiser(optimiser: str, learning_rate: float, momentum: float = 0.0) -> None:
    """ValueError where `make_optimiser` would raise one."""
    if optimiser not in OPTIMISERS:
        raise ValueError(f"optimiser is {optimiser!r}; it must be one of {', '.join(OPTIMISERS)}.")
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate is {learning_rate}; it must be finite and above 0.")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}; it must be in [0, 1).")
    if optimiser == "adam" and momentum:
        raise ValueError(f"momentum is {momentum} with optimiser 'adam'; it must be 0, as Adam has its own.")


def check_schedule(flow_step: float, final_time: float, n_probes: int, *, fewest_probes: int = 2) -> None:
    """ValueError unless a run of steps of `flow_step` reaches `final_time` (same units) and is read often enough."""
    if not (np.isfinite(final_time) and final_time >= flow_step):
        raise ValueError(
            f"final_time is {final_time}; it must be finite and at least flow_step = {flow_step}."
        )
    if n_probes < fewest_probes:
        raise ValueError(f"n_probes is {n_probes}; it must be at least {fewest_probes}.")


def log_spaced_steps(flow_step: float, first_time: float, final_time: float, n_probes: int) -> np.ndarray:
    """Steps, int ≥ 1, at which to read a run of steps of `flow_step`: spaced evenly in ln(1 + time) between the two times.

    Steps that round to the same one stay, so that all runs of a schedule have arrays of one shape.
    """
    spaced = np.expm1(np.linspace(np.log1p(first_time), np.log1p(final_time), n_probes))
    return np.maximum(np.round(spaced / flow_step), 1).astype(int)


def train(
    optimiser: torch.optim.Optimizer,
    loss: Callable[[], torch.Tensor],
    probe_steps: Sequence[int] | np.ndarray,
    probe: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Take steps down `loss()` up to the last of `probe_steps` (sorted, ≥ 0); `probe()` is read after each of them.

    Returns each probe's arrays stacked along a new last axis, one place for each probe step. Losses of stacked seeds must be
    summed, not averaged, so that a seed's gradient does not depend on its neighbours. The loss is looked at when a probe is
    read, not at each step, and raises DivergedError when it is not finite.
    """
    readings: list[dict[str, np.ndarray]] = []
    done = 0
    value = torch.zeros(())
    for target in probe_steps:
        while done < target:
            optimiser.zero_grad(set_to_none=True)
            value = loss()
            torch.autograd.backward(value)
            optimiser.step()
            done += 1
        if not torch.isfinite(value):
            raise DivergedError(f"the loss is not finite at step {done}.")
        with torch.no_grad():
            readings.append(probe())
    return {name: np.stack([one[name] for one in readings], axis=-1) for name in readings[0]}
