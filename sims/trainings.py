"""Trained models are stored runs: the weights of a recipe, a seed and a step, made once and found again.

Each is a safetensors file `trained/<recipe>/<identity>/step-00000300.safetensors` in the store of `sims.records`, with
all weights of one seed, and all that its training needs to go on from there. It is written whole or not at all;
one that is corrupt or foreign is set aside. Nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from sims import checkpoints, engine, fields, records, source
from sims.checkpoints import Checkpoint, Model

if TYPE_CHECKING:  # torch takes a second to import, and `import sims` alone needs none of it
    from sims.training import Started

FILE = re.compile(r"step-(\d{8,})\.safetensors")


class Recipe(Protocol):
    """All settings of a training: a frozen dataclass of flat fields, each with a default, in a file of its own.

    Its code digest covers what the class reaches by name. With a field `final_step`, there is no step beyond that.
    """

    NAME: ClassVar[str]

    def begin(self, seeds: Sequence[int], device: str) -> Started:
        """Fresh models of these seeds, stacked, and their training before its first step.

        A seed's model and data depend on nothing but the recipe and the seed; the training changes the model's weights in place.
        """


def trained(recipe: Recipe, seed: int, step: int, device: str = "cpu") -> Any:
    """The recipe's model after `step` steps of one seed, with a leading axis of one seed and without gradients.

    It is read from the store when it is there, whichever device made it; else it is trained onwards from the latest step that is
    stored and was made on this kind of device, and stored. Raises ValueError for a seed, step or device that is not allowed,
    `sims.training.DivergedError`, and OSError for an unwritable store. Costs at most the training from step 0.
    """
    return trained_stack(recipe, (seed,), step, device)


def trained_stack(recipe: Recipe, seeds: Iterable[int], step: int, device: str = "cpu") -> Any:
    """As `trained`, for several seeds as one stacked model.

    When one of them is missing, the stack is made again whole, from the latest step that all have: on a GPU the numbers of a seed
    depend on what it is stacked with.
    """
    import torch

    seeds = _checked(recipe, seeds, (step,), device)
    model = recipe.begin(seeds, device).model
    found = [_load(recipe, seed, step, model) for seed in seeds]
    if any(one is None for one in found):
        records.Store(records.results_folder()).prepare()
        with engine.one_thread():
            started = _resumed(recipe, seeds, step, device)
            started.training.advance(step)
        _keep(recipe, seeds, started, device)
        found = [_load(recipe, seed, step, model) for seed in seeds]
    stored = [one for one in found if one is not None]
    if len(stored) < len(seeds):
        raise OSError(f"store lost weights of {recipe.NAME} at step {step} just written; run again.")
    weights = {name: torch.cat([one.weights[name] for one in stored]).to(device) for name in model.weights}
    return model.with_weights(weights)


def train_and_keep(
    recipe: Recipe,
    seeds: Iterable[int],
    probe_steps: Sequence[int] | np.ndarray,
    probe: Callable[[Any], dict[str, np.ndarray]],
    keep: Sequence[int] | np.ndarray = (),
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """Train stacked seeds from step 0, read `probe(model)` at each of `probe_steps` (sorted), store the steps in `keep`.

    Returns what `sims.training.train` returns. `trained` finds the stored steps, which are there as soon as they are reached.
    Raises as `trained` does.
    """
    import torch

    from sims.training import stack_readings

    seeds = _checked(recipe, seeds, (*probe_steps, *keep), device)
    probed, kept = [int(step) for step in probe_steps], {int(step) for step in keep}
    if probed != sorted(probed):
        raise ValueError(f"probe_steps are {probed}; they must be sorted.")
    if kept:
        records.Store(records.results_folder()).prepare()
    readings: list[dict[str, np.ndarray]] = []
    with engine.one_thread():
        started = recipe.begin(seeds, device)
        for step in sorted({*probed, *kept}):
            started.training.advance(step)
            if step in kept:
                _keep(recipe, seeds, started, device)
            for _ in range(probed.count(step)):
                with torch.no_grad():
                    readings.append(probe(started.model))
    return stack_readings(readings)


def _checked(recipe: Recipe, seeds: Iterable[int], steps: Collection[int], device: str) -> tuple[int, ...]:
    """The seeds as integers. Raises ValueError for what the caller must not ask."""
    fields.check(recipe)
    name = getattr(recipe, "NAME", None)
    if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9_]+", name)):
        raise ValueError(f"NAME of {type(recipe).__name__} is {name!r}; it must be of a–z, 0–9 and _.")
    asked = tuple(seeds)
    if not asked:
        raise ValueError("zero seeds were given; give at least one.")
    for what, values in (("seed", asked), ("step", steps)):
        for one in values:
            if isinstance(one, bool) or not isinstance(one, int | np.integer) or one < 0:
                raise ValueError(f"{what} is {one!r}; it must be an integer, at least 0.")
    final_step = getattr(recipe, "final_step", None)
    if final_step is not None and max(steps, default=0) > final_step:
        raise ValueError(f"step is {max(steps)}; it must be at most final_step = {final_step} of {name}.")
    engine.check_device(device)
    return tuple(int(seed) for seed in asked)


@cache
def _code_digest(recipe_type: type) -> str:
    """Digest of the code of a recipe, as it is on disk at the first call in a process."""
    try:
        path = Path(inspect.getfile(recipe_type))
    except (TypeError, OSError):
        path = Path()
    if not path.is_file() or "." in recipe_type.__qualname__:
        raise ValueError(f"recipe {recipe_type.__qualname__} must be a class at the top level of a .py file.")
    return source.code_digest(path, entry_points=(recipe_type.__name__,))


def _identity(recipe: Recipe, seed: int) -> str:
    return records.identity(recipe.NAME, recipe, seed, _code_digest(type(recipe)))


def _path(recipe: Recipe, seed: int, step: int) -> Path:
    folder = records.results_folder() / "trained" / recipe.NAME / _identity(recipe, seed)
    return folder / f"step-{step:08d}.safetensors"


def _keep(recipe: Recipe, seeds: Sequence[int], started: Started, device: str) -> None:
    """Store every seed of a stack by itself."""
    for name, weight in started.model.weights.items():
        if len(weight) != len(seeds):
            raise ValueError(
                f"weight {name} of recipe {recipe.NAME} has shape {tuple(weight.shape)}; its first axis must be "
                f"of {len(seeds)} seeds."
            )
    step = started.training.step
    for place, seed in enumerate(seeds):
        weights = {name: weight[place : place + 1] for name, weight in started.model.weights.items()}
        details = {
            "recipe": recipe.NAME,
            "fields": dataclasses.asdict(recipe),  # type: ignore[call-overload]
            "seed": seed,
            "step": step,
            "identity": _identity(recipe, seed),
            "code_digest": _code_digest(type(recipe)),
            "device": engine.device_name(device),
            "versions": records.versions(),
            "command": records.command(),
        }
        checkpoints.write(_path(recipe, seed, step), weights, started.training.state(place), details)


def _load(recipe: Recipe, seed: int, step: int, model: Model) -> Checkpoint | None:
    """What the store has of one seed, None when it has nothing; a file that is corrupt or foreign is set aside.

    - `model`: one of this recipe, of any number of seeds.
    """
    path = _path(recipe, seed, step)
    try:
        stored = checkpoints.read(path)
        if (stored.details.get("identity"), stored.details.get("step")) != (_identity(recipe, seed), step):
            raise ValueError(f"checkpoint {path} belongs to another run.")
        wanted = {name: one[:1] for name, one in model.weights.items()}
        checkpoints.check_weights(path, stored.weights, wanted)
    except FileNotFoundError:
        return None
    except ValueError:
        records.move_aside(path)
        return None
    return stored


def _resumed(recipe: Recipe, seeds: Sequence[int], step: int, device: str) -> Started:
    """The training of a stack at the latest stored step that can be gone on from, at most `step`; else at its start."""
    names = [[one.name for one in _path(recipe, seed, 0).parent.glob("*")] for seed in seeds]
    found = [{int(known[1]) for name in some if (known := FILE.fullmatch(name))} for some in names]
    for earlier in sorted(set.intersection(*found), reverse=True):
        if earlier <= step:
            started = recipe.begin(seeds, device)
            stored = [_load(recipe, seed, earlier, started.model) for seed in seeds]
            if _restored(started, stored, device):
                return started
    return recipe.begin(seeds, device)


def _restored(started: Started, stored: Sequence[Checkpoint | None], device: str) -> bool:
    """Whether the training could be put to what is stored, by the same kind of device, and the model followed."""
    import torch

    found = [one for one in stored if one is not None]
    kinds = {re.split(r"[ :]", str(one.details.get("device")))[0] for one in found}
    if len(found) < len(stored) or kinds != {device.partition(":")[0]}:
        return False
    try:
        started.training.restore(*(one.state for one in found))
    except ValueError:  # as from another version of torch
        return False
    weights = started.model.weights.items()
    return all(
        torch.equal(one.detach().cpu(), torch.cat([each.weights[name] for each in found]))
        for name, one in weights
    )
