"""The training loop: an optimiser, a loss, a learning-rate schedule, probes; it can be kept and continued bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from sims import training_state

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "linear", "cosine")


class DivergedError(ArithmeticError):
    """Training reached a loss that is not finite; the message names the step."""


def make_optimiser(
    parameters: Sequence[torch.Tensor] | Sequence[dict[str, Any]],
    optimiser: str,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """SGD with heavy-ball momentum, or Adam or AdamW with their usual constants (which take no momentum).

    - `parameters`: tensors, or PyTorch's parameter groups, `{"params": [...], "lr": ...}`, each with a learning rate of its own.
    - `weight_decay`: λ. SGD adds λ times the weights to the gradient, before momentum (PyTorch's coupled decay: the gradient of
      λ|w|²/2). AdamW first shrinks the weights by the factor 1 − learning rate · λ (decoupled). Adam takes none.

    Raises ValueError for an unknown name, a learning rate that is not positive, a momentum outside [0, 1), a weight decay below
    0, Adam or AdamW with momentum, Adam with weight decay.
    """
    check_optimiser(optimiser, learning_rate, momentum, weight_decay)
    if optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
    if optimiser == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate)
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)


def check_optimiser(
    optimiser: str, learning_rate: float, momentum: float = 0.0, weight_decay: float = 0.0
) -> None:
    """ValueError where `make_optimiser` would raise one."""
    if optimiser not in OPTIMISERS:
        raise ValueError(f"optimiser is {optimiser!r}; it must be one of {', '.join(OPTIMISERS)}.")
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate is {learning_rate}; it must be finite and above 0.")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}; it must be in [0, 1).")
    if optimiser != "sgd" and momentum:
        raise ValueError(
            f"momentum is {momentum} with optimiser {optimiser!r}; it must be 0, as Adam has its own."
        )
    if not (np.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"weight_decay is {weight_decay}; it must be finite and at least 0.")
    if optimiser == "adam" and weight_decay:
        raise ValueError(f"weight_decay is {weight_decay} with optimiser 'adam'; it must be 0, or use adamw.")


def make_learning_rate_schedule(
    schedule: str, final_step: int, warmup_steps: int = 0
) -> Callable[[int], float]:
    """Factor on the learning rate, in [0, 1], as a function of the number of steps taken before this one.

    It rises as (step + 1)/`warmup_steps` during the first `warmup_steps` steps, then is constant at 1, or falls from 1 to 0 at
    `final_step`, along a line or half a cosine; it stays 0 beyond. Raises ValueError for an unknown schedule, a `final_step` that
    is no integer ≥ 1, or `warmup_steps` that are no integer in [0, final_step).
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}; it must be one of {', '.join(SCHEDULES)}.")
    if isinstance(final_step, bool) or not isinstance(final_step, int | np.integer) or final_step < 1:
        raise ValueError(f"final_step is {final_step!r}; it must be an integer, at least 1.")
    whole = isinstance(warmup_steps, int | np.integer) and not isinstance(warmup_steps, bool)
    if not (whole and 0 <= warmup_steps < final_step):
        raise ValueError(
            f"warmup_steps is {warmup_steps!r}; it must be an integer, from 0 to below final_step = {final_step}."
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        left = max(final_step - step, 0) / (final_step - warmup_steps)
        return {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[schedule]

    return factor


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


def clip_gradients(parameters: Sequence[torch.Tensor], bound: float) -> None:
    """Scale the gradients of each stacked seed down, in place, so that their norm over all parameters is at most `bound`.

    - `parameters`: seeds along a first axis, so that a seed's step does not depend on its neighbours; those without a gradient
      are passed over.
    """
    gradients = [one.grad for one in parameters if one.grad is not None]
    square = sum(one.reshape(len(one), -1).square().sum(1) for one in gradients)
    factor = (bound / torch.as_tensor(square).sqrt()).clamp(max=1.0)
    for one in gradients:
        one.mul_(factor.reshape(-1, *[1] * (one.ndim - 1)))


class Training:
    """A training in progress; `step` is the number of steps taken, 0 at first.

    - `optimiser`: one of `make_optimiser`, over every tensor that changes. `schedule`: see `make_learning_rate_schedule`; it
      multiplies the learning rate that each parameter group has now.
    - `loss`: the number to go down. Losses of stacked seeds must be summed, not averaged, so that a seed's gradient does not
      depend on its neighbours.
    - `gradient_clip`: see `clip_gradients`; by default gradients are taken as they are.
    - `generators`: all that the loss draws from, for stacked seeds one a seed in their order; a loss that remembers anything
      else cannot be continued.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        loss: Callable[[], torch.Tensor],
        *,
        schedule: Callable[[int], float] | None = None,
        gradient_clip: float | None = None,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        if gradient_clip is not None and not gradient_clip > 0:
            raise ValueError(f"gradient_clip is {gradient_clip}; it must be above 0, or None.")
        self.gradient_clip = gradient_clip
        self.optimiser, self.loss, self.schedule = optimiser, loss, schedule
        self.generators = tuple(generators)
        self.step = 0
        self._rates = [group["lr"] for group in optimiser.param_groups]

    def advance(self, step: int) -> None:
        """Take steps until `step` of them have been taken. Raises ValueError when there have been more already.

        Raises DivergedError at the first step (counted from 1) whose loss is not finite, without taking it: so each step reads
        the loss, 1 µs on a CPU; a GPU is waited for, once a step.
        """
        if step < self.step:
            raise ValueError(f"step is {step}; it must be at least {self.step}, the steps taken already.")
        while self.step < step:
            if self.schedule is not None:
                factor = self.schedule(self.step)
                for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
                    group["lr"] = rate * factor
            self.optimiser.zero_grad(set_to_none=True)
            with torch.enable_grad():
                value = self.loss()
            if not math.isfinite(value.item()):
                raise DivergedError(f"the loss is not finite at step {self.step + 1}.")
            torch.autograd.backward(value)
            if self.gradient_clip is not None:
                parameters = [one for group in self.optimiser.param_groups for one in group["params"]]
                clip_gradients(parameters, self.gradient_clip)
            self.optimiser.step()
            self.step += 1

    def state(self, place: int | None = None) -> dict[str, torch.Tensor]:
        """All that it takes to go on, copied, of all stacked seeds or of the one at `place`; see `sims.training_state.take`."""
        return training_state.take(self.optimiser, self.generators, self.step, place)

    def restore(self, *states: Mapping[str, torch.Tensor]) -> None:
        """Go to a `state()`, or to a `state(place)` for each of the stacked seeds in their order; see `sims.training_state.put`.

        On a CPU, going on from there equals never having stopped bit for bit. Raises ValueError, and changes nothing, when a
        state does not fit.
        """
        self.step = training_state.put(self.optimiser, self.generators, states)


class Started(NamedTuple):
    """What a recipe begins: a model (see `sims.trainings.Model`), and the training that changes its weights in place."""

    model: Any
    training: Training


def train(
    training: Training,
    probe_steps: Sequence[int] | np.ndarray,
    probe: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Advance to each of `probe_steps` (sorted, ≥ the steps taken) and read `probe()` there, without gradients.

    Returns each probe's arrays stacked along a new last axis, one place for each probe step. Raises what `advance` raises.
    """
    readings: list[dict[str, np.ndarray]] = []
    for step in probe_steps:
        training.advance(int(step))
        with torch.no_grad():
            readings.append(probe())
    return stack_readings(readings)


def stack_readings(readings: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of equal names stacked along a new last axis; nothing when there are no readings."""
    names = readings[0] if readings else ()
    return {name: np.stack([one[name] for one in readings], axis=-1) for name in names}
