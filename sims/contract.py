"""The contract of an experiment, and the way from a scale and some overrides to a list of runs.

An experiment is one file in sims/experiments with these module-level names: a docstring whose first line is
the question it answers, `Config`, `SCALES`, `simulate`, `predict`, `CLAIMS`, `FIGURES`; and, when they are
needed, `SHAPE_FIELDS`, `example`, `COMPARED`. A file kept elsewhere follows the same contract and is named by
its path, `my_folder/my_experiment.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from sims import fields, source

Verdict = Literal["holds", "fails", "regime", "not_measured"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
SCALE_NAMES = ("smoke", "laptop", "paper")
EXPERIMENTS_FOLDER = Path(__file__).parent / "experiments"
REQUIRED = ("Config", "SCALES", "simulate", "predict", "CLAIMS", "FIGURES")
RESERVED_FIELDS = {"name", "scale", "seed", "seeds", "device", "workers", "live", "progress", "executor"}


@dataclass(frozen=True)
class Scale:
    """How large an experiment is: a base config, the fields that vary with their values, the number of
    seeds."""

    base: Any
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    n_seeds: int = 1


@dataclass(frozen=True)
class Finding:
    """What a check saw: a value, its 95 % interval over seeds, what theory says, and the verdict.

    "regime" means that the claim holds where `note` says, and not everywhere the paper says it.
    """

    measured: float
    interval: tuple[float, float]
    predicted: float | None
    verdict: Verdict
    note: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict is {self.verdict!r}; it must be one of {', '.join(VERDICTS)}.")


@dataclass(frozen=True)
class Claim:
    """A statement that can turn out false.

    - `id`: "A1", "C0.3"; unique over all experiments. `paper`: where it was claimed, or "ours".
    - `statement`: one sentence. `effect`: the effect size committed beforehand, one sentence.
    - `check`: outcome → Finding; with `experiments`, one outcome for each of these names, in their order.
    """

    id: str
    paper: str
    statement: str
    effect: str
    check: Callable[..., Finding]
    experiments: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClaimResult:
    """A claim with what was found about it, and at which scale of which experiment."""

    id: str
    paper: str
    statement: str
    effect: str
    measured: float
    interval: tuple[float, float]
    predicted: float | None
    verdict: Verdict
    experiment: str
    scale: str
    note: str = ""


@dataclass(frozen=True)
class Experiment:
    """A loaded experiment: the names of its module, checked. `reference` finds it again in another
    process."""

    name: str
    reference: str
    module: ModuleType = field(repr=False)
    code_digest: str = field(repr=False)

    @cached_property
    def question(self) -> str:
        """First line of the docstring."""
        return (self.module.__doc__ or "").strip().splitlines()[0]

    @property
    def config_type(self) -> type:
        """The dataclass of one run's settings."""
        return self.module.Config

    @property
    def scales(self) -> Mapping[str, Scale]:
        """ "smoke", "laptop" and "paper"."""
        return self.module.SCALES

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What the experiment insists on."""
        return tuple(self.module.CLAIMS)

    @property
    def figures(self) -> Mapping[str, Callable[..., Any]]:
        """Name → function(outcome) → Figure."""
        return self.module.FIGURES

    @property
    def shape_fields(self) -> tuple[str, ...]:
        """Runs that agree on these fields have arrays of one shape, and may be stacked on a GPU."""
        return tuple(getattr(self.module, "SHAPE_FIELDS", fields.kinds(self.config_type)))

    @property
    def compared(self) -> Mapping[str, Any] | None:
        """Variable → predicted bias, for the variables in which theory and simulation must agree; None: all
        shared."""
        return getattr(self.module, "COMPARED", None)


@dataclass(frozen=True)
class Plan:
    """The runs of one call: every cell of the grid, for every seed."""

    experiment: Experiment
    scale: str
    base: Any
    grid: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...]

    @cached_property
    def configs(self) -> list[Any]:
        """One config a cell of the grid, the last field varying fastest."""
        cells = itertools.product(*self.grid.values())
        return [dataclasses.replace(self.base, **dict(zip(self.grid, cell, strict=True))) for cell in cells]

    @property
    def runs(self) -> list[tuple[Any, int]]:
        """(config, seed), the seed varying fastest."""
        return [(config, seed) for config in self.configs for seed in self.seeds]

    def preset(self) -> dict[str, Any]:
        """The plan as JSON can hold it. The base leaves out the fields of the grid, whose base value is not
        used."""
        base = {name: value for name, value in dataclasses.asdict(self.base).items() if name not in self.grid}
        return {
            "base": {
                name: list(value) if isinstance(value, tuple) else value for name, value in base.items()
            },
            "grid": {name: list(values) for name, values in self.grid.items()},
            "seeds": list(self.seeds),
        }

    @property
    def is_preset(self) -> bool:
        """Whether these are the runs of the scale itself, without settings or seeds of one's own."""
        return plan(self.experiment.reference, self.scale).matches(self.preset())

    def matches(self, preset: Mapping[str, Any]) -> bool:
        """Whether a recorded preset asks for the same runs; a field unknown to the record counts at its
        default."""
        mine, default = self.preset(), {one.name: one.default for one in dataclasses.fields(self.base)}
        recorded = dict(preset.get("base", {}))
        for name, value in default.items():
            if name in mine["base"] and name not in recorded:
                recorded[name] = list(value) if isinstance(value, tuple) else value
        return mine == {"base": recorded, "grid": preset.get("grid"), "seeds": preset.get("seeds")}


def experiment_names() -> list[str]:
    """Names of the experiments in sims/experiments, sorted; a new file there is found by itself."""
    return sorted(path.stem for path in EXPERIMENTS_FOLDER.glob("*.py") if not path.stem.startswith("_"))


def experiment(name: str) -> Experiment:
    """The experiment of that name (with _ or -), or in the file of that path (it ends in .py).

    It is read once in a process: an edited file counts after a restart, so that a record never carries the
    digest of code that did not make it. Raises ValueError for an unknown name and a broken contract.
    """
    if not isinstance(name, str):
        raise ValueError(f"experiment is {name!r}; it must be a name or the path of a file.")
    if name.endswith(".py"):
        path = Path(name).resolve()
        if not path.is_file():
            raise ValueError(f"experiment is {name!r}; there is no such file.")
        if path.parent == EXPERIMENTS_FOLDER.resolve():
            return _load(path.stem, path)
        if path.stem in experiment_names():
            raise ValueError(
                f"experiment file {name!r} has the name of an experiment of sims; rename the file."
            )
        return _load(str(path), path)
    known = experiment_names()
    if name.replace("-", "_") in known:
        name = name.replace("-", "_")
    if name not in known:
        listed = ", ".join(known) or "none so far"
        raise ValueError(f"experiment is {name!r}; it must be one of: {listed}; or the path of a .py file.")
    return _load(name, EXPERIMENTS_FOLDER / f"{name}.py")


@cache
def _load(reference: str, path: Path) -> Experiment:
    digest = source.code_digest(path)
    if path.parent == EXPERIMENTS_FOLDER:
        module = importlib.import_module(f"sims.experiments.{path.stem}")
    else:
        module_name = f"_experiment_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    _validate(path.stem, module)
    return Experiment(path.stem, reference, module, digest)


def _validate(name: str, module: ModuleType) -> None:
    """Raises ValueError, in one sentence, when a module breaks the contract."""
    missing = [required for required in REQUIRED if not hasattr(module, required)]
    if missing:
        raise ValueError(
            f"experiment {name} lacks {', '.join(missing)}; the contract is in sims/contract.py."
        )
    if not (module.__doc__ or "").strip():
        raise ValueError(
            f"experiment {name} has no docstring; its first line must be the question it answers."
        )
    kinds = fields.kinds(module.Config)
    if reserved := sorted(RESERVED_FIELDS & set(kinds)):
        raise ValueError(f"Config of {name} has the field {reserved[0]}, which is an argument of sims.run.")
    if set(module.SCALES) != set(SCALE_NAMES):
        raise ValueError(
            f"SCALES of {name} has {sorted(module.SCALES)}; it must have smoke, laptop and paper."
        )
    for scale_name, scale in module.SCALES.items():
        if type(scale.base) is not module.Config:
            raise ValueError(f"scale {scale_name} of {name}: base must be a Config.")
        if isinstance(scale.n_seeds, bool) or not isinstance(scale.n_seeds, int) or scale.n_seeds < 1:
            raise ValueError(
                f"scale {scale_name} of {name}: n_seeds is {scale.n_seeds!r}; it must be at least 1."
            )
        for grid_field, values in scale.grid.items():
            fields.axis(module.Config, grid_field, values)
    identifiers = [claim.id for claim in module.CLAIMS]
    if repeated := sorted({one for one in identifiers if identifiers.count(one) > 1}):
        raise ValueError(f"CLAIMS of {name} has {repeated[0]} twice; an id names one claim.")
    if unknown := sorted(set(getattr(module, "SHAPE_FIELDS", ())) - set(kinds)):
        raise ValueError(f"SHAPE_FIELDS of {name} names {unknown[0]}, which is no field of Config.")


def plan(
    name: str,
    scale: str = "laptop",
    *,
    seeds: int | Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """The runs of an experiment at a scale.

    - `seeds`: None for the scale's own number, a number (seeds 0 … n − 1), or the seeds themselves.
    - `overrides`: field → value, which replaces the field's axis if it had one; or field → several values,
      which make an axis. For a field that is itself a tuple, a tuple is one value.

    Raises ValueError for an unknown experiment, scale or field, and for a value of the wrong type or range.
    """
    found = experiment(name)
    if scale not in found.scales:
        raise ValueError(f"scale is {scale!r}; it must be one of: {', '.join(SCALE_NAMES)}.")
    preset = found.scales[scale]
    grid = {key: fields.axis(found.config_type, key, values) for key, values in preset.grid.items()}
    settings: dict[str, Any] = {}
    for key, value in (overrides or {}).items():
        if fields.is_axis(found.config_type, key, value):
            grid[key] = fields.axis(found.config_type, key, value)
        else:
            settings[key] = fields.value(found.config_type, key, value)
            grid.pop(key, None)
    first = {key: values[0] for key, values in grid.items()}
    made = Plan(
        experiment=found,
        scale=scale,
        base=dataclasses.replace(preset.base, **settings, **first),
        grid=grid,
        seeds=_seeds(preset.n_seeds if seeds is None else seeds),
    )
    _ = made.configs  # every config of the grid is validated before anything runs
    return made


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    wanted = range(seeds) if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds > 0 else seeds
    try:
        chosen = tuple(int(seed) for seed in wanted if seed >= 0 and int(seed) == seed)  # type: ignore[union-attr]
        good = len(chosen) == len(wanted) == len(set(chosen)) > 0  # type: ignore[arg-type]
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"seeds is {seeds!r}; it must be a number of seeds ≥ 1, or distinct integers ≥ 0.")
    return chosen
