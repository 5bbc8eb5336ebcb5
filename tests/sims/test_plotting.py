"""The look of figures: matplotlib objects of their own, and nothing left behind in pyplot."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from sims import plotting


def test_panels_are_a_figure_that_pyplot_does_not_know() -> None:
    before = dict(mpl.rcParams)
    figure, axes = plotting.panels(2, 3, sharex=True)
    assert isinstance(figure, Figure)
    assert axes.shape == (2, 3)
    assert plotting.panels(1, 1)[1].shape == (1, 1)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before
    np.testing.assert_allclose(figure.get_size_inches(), (9.9, 5.6))


def test_a_notebook_shows_a_png() -> None:
    figure, axes = plotting.panels(1, 1)
    plotting.draw_theory(axes[0, 0], [1, 2], [3, 4])
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_simulation_is_the_mean_with_two_standard_errors() -> None:
    _, axes = plotting.panels(1, 1)
    values = xr.DataArray([[1.0, 2.0], [3.0, 2.0], [5.0, 5.0]], dims=("seed", "time"))
    plotting.draw_simulation(axes[0, 0], values, [10.0, 20.0])
    (points,) = [line for line in axes[0, 0].lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points.get_xydata(), [[10, 3], [20, 3]])
    (bars,) = axes[0, 0].collections
    heights = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
    np.testing.assert_allclose(heights, [4 * 2 / np.sqrt(3), 4 * np.sqrt(3) / np.sqrt(3)])


def test_one_seed_has_no_bar() -> None:
    _, axes = plotting.panels(1, 1)
    plotting.draw_simulation(axes[0, 0], xr.DataArray([[1.0, 2.0]], dims=("seed", "time")), [0, 1])
    (bars,) = axes[0, 0].collections
    assert [np.ptp(segment[:, 1]) for segment in bars.get_segments()] == [0, 0]


@pytest.mark.parametrize(
    ("log", "scales"), [("", ("linear", "linear")), ("x", ("log", "linear")), ("xy", ("log", "log"))]
)
def test_axes_are_labelled(log: str, scales: tuple[str, str]) -> None:
    _, axes = plotting.panels(1, 1)
    one = axes[0, 0]
    plotting.draw_theory(one, [1, 1000], [1, 1000])
    plotting.label_axes(one, title="a title", x="time", y="logit (nats)", log=log)
    assert (one.get_title(), one.get_xlabel(), one.get_ylabel()) == ("a title", "time", "logit (nats)")
    assert (one.get_xscale(), one.get_yscale()) == scales


def test_the_shared_legend_has_each_label_once() -> None:
    figure, axes = plotting.panels(1, 2)
    for label in ("one", "two", "one"):
        plotting.draw_theory(axes[0, 0], [0, 1], [0, 1], label=label)
    plotting.shared_legend(figure, axes[0, 0])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
