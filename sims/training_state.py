"""The state of a training as named tensors: taken out, of all stacked seeds or of one, and put back.

Keys are "step" (int64), "parameter.0", …, "momentum_buffer.0" or "exp_avg.0", "exp_avg_sq.0", "step.0" (steps that
Adam counts for each parameter), …, "generator.0" (uint8), …; tensors alone, so that safetensors can hold them.
`sims.training.Training` has both functions as methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch


def take(
    optimiser: torch.optim.Optimizer,
    generators: Sequence[torch.Generator],
    step: int,
    place: int | None = None,
) -> dict[str, torch.Tensor]:
    """Copies of parameters, the optimiser's buffers, the generators' states and the step.

    - `place`: of stacked seeds the one to take, in the form that its training would have alone; None takes all.

    Raises ValueError when `place` is none of the leading axis that parameters and generators share, or the optimiser is neither
    SGD, Adam nor AdamW.
    """
    n_seeds = _n_seeds(optimiser, generators)
    if place is not None and not 0 <= place < n_seeds:
        raise ValueError(
            f"place is {place}; it must be from 0 to below {n_seeds}, the number of stacked seeds."
        )
    cut = slice(None) if place is None else slice(place, place + 1)
    found = {"step": torch.tensor(step)}
    for index, parameter in enumerate(_parameters(optimiser)):
        kept = optimiser.state.get(parameter, {})
        found[f"parameter.{index}"] = parameter
        for name in _buffers(optimiser):
            found[f"{name}.{index}"] = kept.get(name, _blank(name, parameter))
    for key, value in found.items():
        part = value.detach()[cut] if value.ndim else value
        found[key] = part.clone(memory_format=torch.contiguous_format)
    return found | {f"generator.{index}": one.get_state() for index, one in enumerate(generators[cut])}


def put(
    optimiser: torch.optim.Optimizer,
    generators: Sequence[torch.Generator],
    states: Sequence[Mapping[str, torch.Tensor]],
) -> int:
    """Put one state of all seeds back, or one for each of the stacked seeds in their order; returns the step.

    Raises ValueError, and changes nothing, when a state does not fit: other keys, shapes or dtypes (as the generator of another
    device has), or seeds at different steps.
    """
    n_seeds = _n_seeds(optimiser, generators) or 1
    if len(states) not in (1, n_seeds):
        raise ValueError(
            f"number of states is {len(states)}; it must be 1, or {n_seeds}, one a stacked seed."
        )
    like = take(optimiser, generators, 0, None if len(states) == 1 else 0)
    for state in states:
        _check_fit(state, like, states[0])
    joined = {key: torch.cat([one[key] for one in states]) if value.ndim else states[0][key]
              for key, value in like.items() if not key.startswith("generator.")}  # fmt: skip
    step = int(joined["step"])
    optimiser.state.clear()
    for index, parameter in enumerate(_parameters(optimiser)):
        with torch.no_grad():
            parameter.copy_(joined[f"parameter.{index}"])
        for name in _buffers(optimiser) if step else ():
            optimiser.state[parameter][name] = _blank(name, parameter).copy_(joined[f"{name}.{index}"])
    draws = [state[key] for state in states for key in like if key.startswith("generator.")]
    for generator, draw in zip(generators, draws, strict=True):
        generator.set_state(draw)
    return step


def _parameters(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [one for group in optimiser.param_groups for one in group["params"]]


def _buffers(optimiser: torch.optim.Optimizer) -> tuple[str, ...]:
    if isinstance(optimiser, torch.optim.Adam | torch.optim.AdamW):
        return "exp_avg", "exp_avg_sq", "step"
    if isinstance(optimiser, torch.optim.SGD):
        return ("momentum_buffer",) if any(group["momentum"] for group in optimiser.param_groups) else ()
    raise ValueError(f"optimiser is {type(optimiser).__name__}; it must be SGD, Adam or AdamW to be kept.")


def _blank(name: str, parameter: torch.Tensor) -> torch.Tensor:
    """A buffer before the first step."""
    return torch.zeros(()) if name == "step" else torch.zeros_like(parameter, requires_grad=False)


def _n_seeds(optimiser: torch.optim.Optimizer, generators: Sequence[torch.Generator]) -> int:
    """Length of the leading axis of all parameters; 0 when they, or the generators, do not agree on one."""
    lengths = {len(one) if one.ndim else 0 for one in _parameters(optimiser)}
    lengths |= {len(generators)} if generators else set()
    return lengths.pop() if len(lengths) == 1 else 0


def _check_fit(
    state: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor], first: Mapping[str, torch.Tensor]
) -> None:
    """ValueError unless a state has the keys, shapes and dtypes of `like`, and the steps of the first state."""
    if differing := sorted(state.keys() ^ like.keys()):
        has = "lacks" if differing[0] in like else "has"
        raise ValueError(f"state {has} {differing[0]}, so that it is of another training.")
    for key, value in like.items():
        told, wanted = (f"{one.dtype} of shape {tuple(one.shape)}" for one in (state[key], value))
        if told != wanted:
            raise ValueError(f"{key} of the state is {told}; it must be {wanted}.")
        if not value.ndim and not torch.equal(state[key], first[key]):
            told = f"{state[key].item()} and {first[key].item()}"
            raise ValueError(f"{key} is {told} in states of one stack; it must be the same.")
