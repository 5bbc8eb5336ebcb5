"""What a call of `sims.run` gives: the measurement, the prediction on the same coordinates, and their
comparison."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sims import agreement
from sims.contract import ClaimResult, Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _concatenate(datasets: Sequence[xr.Dataset], name: str, values: Sequence[Any]) -> xr.Dataset:
    along = xr.DataArray(np.asarray(values), dims=name, name=name)
    return xr.concat(
        list(datasets),
        dim=along,
        data_vars="all",
        coords="different",
        compat="equals",
        join="outer",
        combine_attrs="drop_conflicts",
    )


def join(datasets: Sequence[xr.Dataset], axes: Mapping[str, Sequence[Any]]) -> xr.Dataset:
    """Datasets, the last axis varying fastest, as one with these axes in front; missing entries become
    NaN."""
    joined = list(datasets)
    for name, values in reversed(list(axes.items())):
        step = len(values)
        joined = [_concatenate(joined[at : at + step], name, values) for at in range(0, len(joined), step)]
    (whole,) = joined
    front = [name for name in axes if name in whole.dims]
    return whole.transpose(*front, ...)


@dataclass(frozen=True, repr=False)
class Outcome:
    """An experiment's measurement with its prediction, claims, figures and provenance.

    - `measured`: dimensions seed, the grid's fields, then those of one run.
    - `provenance`: revision, dirty, device, wall_seconds (sum over runs), versions, command, preset,
      code_digest, recorded (from a committed record), code_changed (since that record; None when computed
      here), n_computed and n_stored (runs made now, and found in the store), set_aside (corrupt files of the
      store, made again).
    """

    plan: Plan
    measured: xr.Dataset
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The experiment."""
        return self.plan.experiment.name

    @property
    def scale(self) -> str:
        """smoke, laptop or paper."""
        return self.plan.scale

    @property
    def configs(self) -> list[Any]:
        """One config a cell of the grid, the last field varying fastest."""
        return self.plan.configs

    @cached_property
    def predicted(self) -> xr.Dataset:
        """Theory on the coordinates of `measured`, without seed; computed on first use, and never stored."""
        module = self.plan.experiment.module
        return join([module.predict(config) for config in self.configs], self.plan.grid)

    @cached_property
    def agreement(self) -> agreement.Agreement | None:
        """The worst disagreement in the variables that the experiment says must agree; None when there are
        none, or when none of them has a prediction (all NaN)."""
        compared = self.plan.experiment.compared
        shared = [name for name in self.predicted.data_vars if name in self.measured.data_vars]
        if not any(
            self.predicted[name].notnull().any() for name in (shared if compared is None else compared)
        ):
            return None
        return agreement.compare(self.measured, self.predicted, bias=compared, variables=compared)

    @cached_property
    def claims(self) -> list[ClaimResult]:
        """Each claim of the experiment with what this outcome says of it."""
        from sims import claims

        return [claims.evaluate(claim, self) for claim in self.plan.experiment.claims]

    def figure(self, name: str) -> Figure:
        """One of the experiment's figures. Raises ValueError for an unknown name."""
        figures = self.plan.experiment.figures
        if name not in figures:
            raise ValueError(f"figure is {name!r}; {self.name} has: {', '.join(figures) or 'none'}.")
        import matplotlib as mpl

        from sims.plotting import STYLE

        with mpl.rc_context(STYLE):
            return figures[name](self)

    def _lines(self) -> list[tuple[str, str]]:
        grid = ", ".join(f"{name} ({len(values)})" for name, values in self.plan.grid.items()) or "no grid"
        source = "committed record" if self.provenance.get("recorded") else "computed or stored here"
        about = self.provenance
        changed = {True: "; the code changed since", False: "; the code is unchanged", None: ""}
        return [
            ("question", self.plan.experiment.question),
            ("runs", f"{len(self.configs)} configs ({grid}) × {len(self.plan.seeds)} seeds"),
            ("source", source + changed[self.provenance.get("code_changed")]),
            ("time", f"{about.get('wall_seconds', 0.0):.1f} s of runs on {about.get('device')}"),
            ("claims", ", ".join(f"{one.id} {one.verdict}" for one in self.claims) or "none"),
        ]

    def __repr__(self) -> str:
        return f"Outcome of {self.name} at {self.scale} scale\n" + "\n".join(
            f"  {a}: {b}" for a, b in self._lines()
        )

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{a}</th><td>{html.escape(b)}</td></tr>" for a, b in self._lines())
        caption = html.escape(f"{self.name}, {self.scale} scale")
        return f"<table class='dataframe'><caption>{caption}</caption>{rows}</table>"
