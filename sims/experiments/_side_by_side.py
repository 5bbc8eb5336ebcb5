"""What the best cut of each kind takes from the common answer and gives to the right one, in three experiments, one measure.

The memory (`memory_surgery`), the two-layer transformer (`two_layer_truncation`) and the language model (`pythia_truncation`).
Shares are counted in units of what the common answer had before the cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting
from sims.experiments._readings import is_late
from sims.outcome import Outcome

KINDS = ("keep the top", "remove the top", "zero")
NONE = "none"
"""The kind of no cut, which is allowed as the best of either of the first two."""


@dataclass(frozen=True)
class BestCut:
    """The best cut of a kind, seed by seed.

    - `taken`: (p₀ − p₁)/p₀ of the common answer, p₀ before and p₁ after; `given`: (r₁ − r₀)/p₀ of the right one; shape (seeds,).
    - `names`: which cut it was. `theory`: both shares of that cut by theory, NaN where there is none.
    """

    taken: np.ndarray
    given: np.ndarray
    names: tuple[str, ...]
    theory: tuple[float, float] = (np.nan, np.nan)

    def mean(self, share: str) -> float:
        """Mean over seeds of `taken` or `given`."""
        return float(getattr(self, share).mean())

    @property
    def chosen(self) -> str:
        """The cut that most seeds have chosen, and how many of them where they disagree."""
        most = max(dict.fromkeys(self.names), key=self.names.count)
        count = self.names.count(most)
        return most if count == len(self.names) else f"{most} ({count} of {len(self.names)})"


Row = Mapping[str, BestCut]
"""Kind → its best cut."""


def shares(common: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Taken and given of cuts whose probabilities are in the last axis, the first of which is no cut."""
    before = common[..., :1]
    return (before - common) / before, (right - right[..., :1]) / before


def best_cut(
    common: np.ndarray, right: np.ndarray, names: Sequence[str], kinds: Sequence[str], kind: str
) -> BestCut:
    """The cut of a kind that gives most in the other seeds (in the one seed there is), read in this one.

    - `common`, `right`: probabilities, shape (seeds, cuts); cut 0 is none. `names`, `kinds`: of the cuts.
    """
    allowed = [place for place, one in enumerate(kinds) if one == kind or (one == NONE and kind != "zero")]
    taken, given = (one[:, allowed] for one in shares(common, right))
    found = []
    for seed in range(len(taken)):
        others = np.arange(len(taken)) != seed if len(taken) > 1 else slice(None)
        place = int(given[others].mean(0).argmax())
        found.append((taken[seed, place], given[seed, place], names[allowed[place]]))
    return BestCut(
        np.array([one[0] for one in found]),
        np.array([one[1] for one in found]),
        tuple(one[2] for one in found),
    )


def memory_row(outcome: Outcome, n_tokens: int, noise_level: float) -> Row:
    """The memory at its last reading. Zero is the uniform distribution over n_tokens + 1 answers."""
    names = (NONE, "keep 1", "keep n-1", "drop 1", "drop n-1", "zero")
    kinds = (NONE, KINDS[0], KINDS[0], KINDS[1], KINDS[1], KINDS[2])

    def table(values: xr.Dataset) -> list[np.ndarray]:
        here = values.sel(n_tokens=n_tokens, noise_level=noise_level).isel(time=-1)
        found = [
            here[one].sel(cut=["full", *names[1:-1]]).transpose(..., "cut").values
            for one in ("noise", "correct")
        ]
        uniform = np.full((*found[0].shape[:-1], 1), 1 / (n_tokens + 1))
        return [np.concatenate([one, uniform], -1) for one in found]

    common, right = table(outcome.measured)
    exact = shares(*table(outcome.predicted))
    row = {}
    for kind in KINDS:
        best = best_cut(common, right, names, kinds, kind)
        place = names.index(best.names[0])
        row[kind] = BestCut(
            best.taken, best.given, best.names, (float(exact[0][place]), float(exact[1][place]))
        )
    return row


def transformer_row(outcome: Outcome, place: str, feed_forward: str, noise_level: float) -> Row:
    """One matrix of the two-layer transformer at its last step; of removals, that of the largest component."""
    late = outcome.measured.isel(step=-1).sel(
        noise_level=noise_level, feed_forward_1=feed_forward, place=place
    )
    inside = [float(one) for one in late["rank_fraction"].values if 0 < one < 1]
    names = (NONE, *(f"keep {one:g}" for one in inside), "drop 1", "zero")
    kinds = (NONE, *(KINDS[0] for _ in inside), KINDS[1], KINDS[2])
    common, right = (
        np.concatenate(
            [
                late[f"kept_{one}"]
                .sel(rank_fraction=[1.0, *inside])
                .transpose("seed", "rank_fraction")
                .values,
                late[f"removed_{one}"].sel(removed=["first"]).transpose("seed", "removed").values,
                late[f"kept_{one}"].sel(rank_fraction=[0.0]).transpose("seed", "rank_fraction").values,
            ],
            1,
        )
        for one in ("noise", "target")
    )
    return {kind: best_cut(common, right, names, kinds, kind) for kind in KINDS}


def story_row(outcome: Outcome, role: str, prompts: str = "indirect object") -> Row:
    """A role's matrices in the later half of layers of a language model at its last checkpoint, one kind of prompts.

    The layer and the fraction are chosen on one half of the prompts, seed by seed, and the shares read on the other.
    """
    measured = outcome.measured
    late = is_late(measured.isel(revision=-1) if "revision" in measured.dims else measured)
    places = [one for one in late["place"].values if str(one).split()[0] == role]
    gifts = late.sel(kind=prompts, place=places)
    inside = [float(one) for one in gifts["fraction"].values if 0 < one < 1]
    row = {}
    for kind in KINDS:
        table = gifts["value"].sel(cut=KINDS[0], fraction=[0.0] if kind == "zero" else [1.0]).drop_vars("cut")
        if kind != "zero":
            cuts = gifts["value"].sel(cut=kind, fraction=inside).drop_vars("cut")
            table = xr.concat([table, cuts], "fraction", coords="minimal")
        table, found = table.stack(cell=("place", "fraction")), []
        for seed in range(table.sizes["seed"]):
            here, whole = table.isel(seed=seed), gifts["whole"].isel(seed=seed).sel(half="report")
            cell = int(here.sel(half="choose", reading="answer_probability").argmax("cell"))
            place, fraction = here["cell"].values[cell]
            after = here.sel(half="report").isel(cell=cell)
            common, right = (
                [float(one.sel(reading=f"{name}_probability")) for one in (whole, after)]
                for name in ("generic", "answer")
            )
            name = (
                NONE
                if fraction == 1
                else f"layer {str(place).split()[1]}" + (f", {fraction:g}" if fraction else "")
            )
            found.append(((common[0] - common[1]) / common[0], (right[1] - right[0]) / common[0], name))
        row[kind] = BestCut(
            np.array([one[0] for one in found]),
            np.array([one[1] for one in found]),
            tuple(one[2] for one in found),
        )
    return row


def draw(rows: Mapping[str, Row], groups: Sequence[int] = ()) -> Figure:
    """One row a matrix, one panel a kind of cut; short upright lines are theory.

    - `groups`: sizes of the groups of rows, between which a line is drawn.
    """
    figure, axes = plotting.panels(1, len(KINDS), width=3.2, height=0.9 + 0.36 * len(rows), sharey=True)
    heights = np.arange(len(rows))[::-1]
    looks = (
        ("taken", "taken from the common answer", "noise", 0.13),
        ("given", "given to the right answer", "correct", -0.13),
    )
    left = -1.1
    for one, kind in zip(axes[0], KINDS, strict=True):
        for number, (share, label, colour, shift) in enumerate(looks):
            look = {"color": plotting.COLOURS[colour]}
            best = [row[kind] for row in rows.values()]
            errors = [
                2 * getattr(b, share).std(ddof=1) / np.sqrt(len(b.names)) if len(b.names) > 1 else 0.0
                for b in best
            ]
            means = np.array([b.mean(share) for b in best])
            inside = means >= left
            one.errorbar(
                np.maximum(means, left)[inside], (heights + shift)[inside], xerr=np.array(errors)[inside],
                fmt="o", markersize=4.5, linewidth=1, label=label, **look,
            )  # fmt: skip
            for height in (heights + shift)[~inside]:
                one.plot(left, height, "<", markersize=6, clip_on=False, **look)
            for height, b in zip(heights + shift, best, strict=True):
                if b.theory[number] >= left:
                    one.plot([b.theory[number]] * 2, [height - 0.24, height + 0.24], linewidth=1.2, **look)
        one.axvline(0, color="#888888", linewidth=0.8, zorder=0)
        one.axvline(1, color="#888888", linewidth=0.8, linestyle=":", zorder=0)
        for below in len(rows) - np.cumsum(groups)[:-1]:
            one.axhline(below - 0.5, color="#cccccc", linewidth=0.8, zorder=0)
        one.set_xlim(left, 1.3)
        one.set_yticks(heights, list(rows))
        one.grid(visible=False, axis="y")
        plotting.label_axes(
            one, title=kind, x="share of what the common answer had" if kind == KINDS[1] else ""
        )
    plotting.shared_legend(figure, axes[0, 0])
    return figure
