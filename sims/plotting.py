"""One look for all figures: theory as a line, simulation as points or a band of ±2 standard errors."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Colours that colour-blind readers can tell apart."""

STYLE: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.prop_cycle": cycler(color=PALETTE),
}
COLOURS = {
    "correct": "#0072b2",
    "noise": "#d55e00",
    "other": "#009e73",
    "signal": "#0072b2",
    "limit": "#555555",
}
"""One meaning, one colour, in every figure."""


class Drawing(Figure):
    """A matplotlib figure that notebooks show by themselves, without pyplot and its global list of figures."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=STYLE["savefig.dpi"])
        return picture.getvalue()


def panels(
    rows: int, columns: int, *, width: float = 3.3, height: float = 2.8, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of rows × columns axes in the project's style (an array of axes, always with two axes), sizes in inches.

    Drawn inside `mpl.rc_context(STYLE)`, as `Outcome.figure` does it, it has the project's look.
    """
    figure = Drawing(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def draw_theory(axes: Axes, x: Any, y: Any, **options: Any) -> None:
    """A theory curve: a line."""
    axes.plot(np.asarray(x), np.asarray(y), zorder=2, **options)


def draw_simulation(axes: Axes, values: xr.DataArray, x: Any, *, dim: str = "seed", **options: Any) -> None:
    """Simulation: the mean over `dim` as points with bars of ±2 standard errors, at positions `x`."""
    mean, count = values.mean(dim), values.sizes[dim]
    error = 2 * values.std(dim, ddof=1) / np.sqrt(count) if count > 1 else xr.zeros_like(mean)
    axes.errorbar(
        np.asarray(x),
        mean.values,
        yerr=np.nan_to_num(error.values),
        fmt="o",
        **{"markersize": 3.5, "linewidth": 1, "zorder": 3, **options},
    )


def label_axes(axes: Axes, *, title: str = "", x: str = "", y: str = "", log: str = "") -> None:
    """Title and axis labels; `log` names the logarithmic axes, "x", "y" or "xy". Call it after drawing."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    for name, set_scale, axis in (("x", axes.set_xscale, axes.xaxis), ("y", axes.set_yscale, axes.yaxis)):
        if name in log:
            set_scale("log")
            low, high = sorted(axis.get_view_interval())
            if high < 300 * low:
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def shared_legend(figure: Figure, axes: Axes, names: Mapping[str, str] | Sequence[str] | None = None) -> None:
    """One legend below all panels, from the handles of one of them, each label once."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    shown = list(names) if names is not None else list(unique)
    figure.legend([unique[name] for name in shown], shown, loc="outside lower center", ncols=len(shown))
