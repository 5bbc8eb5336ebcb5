"""One measure for three experiments: shares by hand, the choice by other seeds, and the committed records under it."""

import matplotlib as mpl
import numpy as np
import pytest

import sims
from sims import plotting
from sims.experiments import _side_by_side as compared

NAMES, KINDS = (
    ("none", "a", "b", "c", "zero"),
    ("none", "keep the top", "keep the top", "remove the top", "zero"),
)


def test_shares_are_counted_in_what_the_common_answer_had() -> None:
    taken, given = compared.shares(np.array([[0.4, 0.1, 0.6]]), np.array([[0.5, 0.7, 0.5]]))
    np.testing.assert_allclose(taken, [[0, 0.75, -0.5]])
    np.testing.assert_allclose(given, [[0, 0.5, 0]], atol=1e-15)


def test_the_best_cut_is_chosen_by_the_other_seeds() -> None:
    """Cut a is best by far in seed 0 alone, which must therefore get cut b, that of the others."""
    right = np.array([[0.5, 0.9, 0.6, 0.4, 0.1], [0.5, 0.4, 0.6, 0.4, 0.1], [0.5, 0.4, 0.6, 0.4, 0.1]])
    common = np.full_like(right, 0.4)
    best = compared.best_cut(common, right, NAMES, KINDS, "keep the top")
    assert best.names == ("b", "a", "a")
    np.testing.assert_allclose(best.given, [0.25, -0.25, -0.25])
    assert best.chosen == "a (2 of 3)"


def test_no_cut_is_allowed_but_in_place_of_zero() -> None:
    right = np.array([[0.5, 0.4, 0.3, 0.2, 0.1]] * 2)
    common = np.full_like(right, 0.4)
    for kind, name, given in (
        ("keep the top", "none", 0.0),
        ("remove the top", "none", 0.0),
        ("zero", "zero", -1.0),
    ):
        best = compared.best_cut(common, right, NAMES, KINDS, kind)
        assert best.chosen == name
        assert best.mean("given") == pytest.approx(given)


def test_the_memory_of_two_keeps_and_that_of_eight_removes() -> None:
    """And theory says the same of both cuts: the flow's step correction is good to 0.01 in probability, 0.03 of 0.3."""
    outcome = sims.run("memory_surgery")
    for n, kind in ((2, "keep the top"), (8, "remove the top")):
        best = compared.memory_row(outcome, n, 0.3)[kind]
        assert best.mean("given") > 0.9
        np.testing.assert_allclose(best.theory, (best.mean("taken"), best.mean("given")), atol=0.04)


def test_rows_of_the_transformer_and_the_language_model_are_drawn() -> None:
    two = compared.transformer_row(sims.run("two_layer_truncation"), "feed_forward_out 1", "relu", 0.3)
    story = compared.story_row(sims.run("pythia_truncation"), "feed_forward_out", "fact")
    assert set(two) == set(story) == set(compared.KINDS)
    for row in (two, story):
        assert all((best.taken <= 1).all() for best in row.values())
    with mpl.rc_context(plotting.STYLE):
        figure = compared.draw({"two layers": two, "facts": story}, (1, 1))
    assert len(figure.axes) == len(compared.KINDS)
