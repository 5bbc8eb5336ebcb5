"""Figures of `pythia_truncation`: the full table as heat maps, and what a cut does fraction by fraction."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.outcome import Outcome

ROLES = {
    "query": "query", "key": "key", "value": "value", "attention_output": "attention output",
    "feed_forward_in": "feed-forward in", "feed_forward_out": "feed-forward out",
}  # fmt: skip


def _latest(outcome: Outcome) -> xr.Dataset:
    found = outcome.measured
    return found.isel(revision=-1) if "revision" in found.dims else found


def _table(measured: xr.Dataset, reading: str, cut: str) -> xr.DataArray:
    """Change of a reading of indirect-object prompts, mean over seeds and prompts to report on; place × fraction."""
    change = (measured["value"] - measured["whole"]).sel(
        kind="indirect object", half="report", reading=reading, cut=cut
    )
    return change.mean("seed")


def _heat_maps(tables: dict[str, xr.DataArray], label: str, width: float) -> Figure:
    """Tables of changes side by side, matrices from top to bottom, all on one scale; by their titles."""
    places = [_told(str(one)) for one in next(iter(tables.values()))["place"].values]
    figure, axes = plotting.panels(1, len(tables), width=width, height=1.2 + 0.2 * len(places), sharey=True)
    for one, (title, table) in zip(axes[0], tables.items(), strict=True):
        drawn = one.imshow(
            table.transpose("place", "fraction"), cmap="RdBu_r", vmin=-0.4, vmax=0.4, aspect="auto"
        )
        fractions = [f"{float(value):g}" for value in table["fraction"]]
        one.set_xticks(range(len(fractions)), fractions, fontsize=8, rotation=60)
        one.set_yticks(range(len(places)), places, fontsize=9)
        one.grid(visible=False)
        plotting.label_axes(
            one, title=title, x="rank fraction", y="matrix, layer" if one is axes[0, 0] else ""
        )
    figure.colorbar(drawn, ax=list(axes[0]), shrink=0.8, label=label)
    return figure


def _told(place: str) -> str:
    """A place in words."""
    role, layer = place.split()
    return f"{ROLES[role]}, {layer}"


def _answer_and_generic(outcome: Outcome, cut: str, told: str) -> Figure:
    tables = {
        f"{name}, {told}": _table(_latest(outcome), reading, cut)
        for name, reading in (("p(answer)", "answer_probability"), ("p( the)", "generic_probability"))
    }
    return _heat_maps(tables, "change of the mean probability", 5.0)


def truncations(outcome: Outcome) -> Figure:
    """Change of p(answer) and p( the) when the top fraction of one matrix is all that is kept; at the last checkpoint."""
    return _answer_and_generic(outcome, "keep the top", "top kept")


def removals(outcome: Outcome) -> Figure:
    """The same when the top fraction is removed."""
    return _answer_and_generic(outcome, "remove the top", "top removed")


def checkpoints(outcome: Outcome) -> Figure:
    """Change of p(answer) by truncation at every checkpoint."""
    measured, base = outcome.measured, str(outcome.configs[0].revision)
    if "revision" not in measured.dims:
        measured = measured.expand_dims(revision=[base])
    names = [str(one) for one in measured["revision"].values]
    tables = {
        "last step" if name == "main" else name.replace("step", "step "): _table(
            measured.sel(revision=name), "answer_probability", "keep the top"
        )
        for name in names
    }
    return _heat_maps(tables, "change of p(answer)", 3.8)


def by_fraction(outcome: Outcome) -> Figure:
    """Probabilities against the rank fraction, for the last layer's matrices; lines: the whole model."""
    measured = _latest(outcome)
    last = max(int(str(one).split()[1]) for one in measured["place"].values)
    places = [one for one in measured["place"].values if str(one).endswith(f" {last}")]
    fractions = np.arange(measured.sizes["fraction"])
    cuts = [str(one) for one in measured["cut"].values]
    figure, axes = plotting.panels(
        len(cuts), len(places), width=min(2.6, 10.5 / len(places)), height=2.3, sharex=True, sharey=True
    )
    for row, cut in enumerate(cuts):
        for column, place in enumerate(places):
            one = axes[row, column]
            for name, label, colour in (
                ("answer_probability", "the answer", "correct"),
                ("generic_probability", '" the"', "noise"),
            ):
                where: dict[str, Any] = {"kind": "indirect object", "half": "report", "reading": name}
                values = measured["value"].sel({"place": place, "cut": cut, **where})
                whole = float(measured["whole"].sel(where).mean())
                one.axhline(whole, color=plotting.COLOURS[colour], linewidth=1, linestyle=":")
                plotting.draw_simulation(one, values, fractions, color=plotting.COLOURS[colour], label=label)
            one.set_xticks(
                fractions[::2],
                [f"{float(value):g}" for value in measured["fraction"].values[::2]],
                rotation=60 if len(fractions) > 7 else 0,
                fontsize=9,
            )
            one.set_ylim(-0.04, 1.04)
            plotting.label_axes(
                one,
                title=ROLES[str(place).split()[0]] if row == 0 else "",
                x="rank fraction" if row == len(cuts) - 1 else "",
                y=f"{cut}:\nprobability" if column == 0 else "",
            )
    plotting.shared_legend(figure, axes[0, 0])
    return figure


FIGURES = {
    "truncations": truncations,
    "removals": removals,
    "checkpoints": checkpoints,
    "by_fraction": by_fraction,
}
