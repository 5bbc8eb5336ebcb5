"""The two-layer experiments at tiny size: settings, shapes, stored trainings, and identities of surgery."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch

import sims
from sims import contract
from sims.__main__ import main
from sims.experiments import (
    two_layer_first_gradient,
    two_layer_training,
    two_layer_truncation,
    two_layer_without_feed_forward,
)
from sims.experiments.two_layer_truncation import (
    PLACES,
    RANK_FRACTIONS,
    REMOVED,
    SURGERIES,
)
from sims.models.transformer import initialise
from sims.probes.recall_transformer import noise_margin
from sims.recipes.recall_transformer import RecallTransformerRecipe
from sims.roles import Place
from sims.streams import torch_generator
from sims.tasks.noisy_recall import scored_loss

pytestmark = pytest.mark.usefixtures("store")
TINY: dict[str, Any] = {
    "chain": "zipf",
    "n_tokens": 6,
    "context_length": 12,
    "width": 8,
    "batch_size": 4,
    "final_step": 6,
    "n_evaluation": 16,
}
NAMES = (
    "two_layer_first_gradient",
    "two_layer_training",
    "two_layer_truncation",
    "two_layer_without_feed_forward",
    "two_layer_without_noise",
)


def training(**fields: Any) -> two_layer_training.Config:
    return two_layer_training.Config(**{**TINY, "n_probes": 3, **fields})


def truncation(**fields: Any) -> two_layer_truncation.Config:
    return two_layer_truncation.Config(**{**TINY, "step": 6, **fields})


BAD = [
    ("two_layer_training", {"n_probes": 1}, "n_probes is 1; it must be at least 2."),
    ("two_layer_training", {"n_evaluation": 0}, "n_evaluation is 0; it must be at least 1."),
    ("two_layer_training", {"keep": (30, 301)}, "keep has 301; it must be a step from 0 to final_step = 300."),
    ("two_layer_training", {"keep": (-1,)}, "keep has -1; it must be a step from 0 to final_step = 300."),
    ("two_layer_training", {"final_step": 20}, "keep has 30; it must be a step from 0 to final_step = 20."),
    ("two_layer_training", {"n_tokens": 20}, "n_tokens is 20 with chain 'shakespeare'; it must be 65, its characters."),
    ("two_layer_training", {"feed_forward_0": "gelu"}, "field feed_forward_0 is 'gelu'; it must be one of none, linear, relu."),
    ("two_layer_training", {"momentum": 0.9}, "momentum is 0.9 with optimiser 'adamw'; it must be 0, as Adam has its own."),
    ("two_layer_truncation", {"step": 301}, "step is 301; it must be from 0 to final_step = 300."),
    ("two_layer_truncation", {"step": -1}, "step is -1; it must be from 0 to final_step = 300."),
    ("two_layer_truncation", {"n_evaluation": 0}, "n_evaluation is 0; it must be at least 1."),
    ("two_layer_without_feed_forward", {"step": 601}, "step is 601; it must be from 0 to final_step = 600."),
    ("two_layer_without_feed_forward", {"noise_level": 1.0}, "noise_level is 1.0; it must be in [0, 1)."),
    ("two_layer_first_gradient", {"n_models": 0}, "n_models is 0; it must be at least 1."),
    ("two_layer_first_gradient", {"batch_size": 0}, "batch_size is 0; it must be at least 1."),
    ("two_layer_first_gradient", {"width": 0}, "width is 0; it must be at least 1."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields", "answer"), BAD, ids=[f"{one[0]}-{one[1]}" for one in BAD])
def test_bad_settings_are_refused_in_one_sentence(name: str, fields: dict[str, Any], answer: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        sims.run(name, scale="smoke", **fields)


def test_the_command_line_says_the_same_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "two_layer_truncation", "--scale", "smoke", "--set", "step=301"]) == 2
    told = capsys.readouterr()
    assert told.err.strip().endswith("step is 301; it must be from 0 to final_step = 300.")
    assert "Traceback" not in told.err
    assert not told.out


def test_the_scales_operate_on_what_the_training_keeps() -> None:
    """Each recipe and step of two_layer_truncation that the training has too is one that it stores."""
    for scale in contract.SCALE_NAMES:
        trained = contract.plan("two_layer_training", scale).configs
        kept = {(one.recipe, step) for one in trained for step in one.keep}
        asked = {(one.recipe, one.step) for one in contract.plan("two_layer_truncation", scale).configs}
        assert kept == {(recipe, step) for recipe, step in asked if recipe.noise_level > 0}


# What is measured


def test_what_the_training_measures() -> None:
    config = training(keep=(0, 6))
    found = two_layer_training.simulate([(config, 3), (config, 5)], "cpu")
    assert len(found) == 2
    for one in found:
        assert one["step"].values.tolist() == config.probe_steps.tolist()
        assert one["step"].values.tolist() == [1, 3, 6]
        for name in ("target", "noise", "accuracy", "accuracy_of_two", "loss"):
            assert one[f"cut_{name}"].dims == ("cut", "step")
        assert one["table"].dims == ("predicted", "label", "step")
        assert one["margin"].dims == ("feed_forward", "step")
        for name in (
            "loss",
            "previous_token",
            "after_trigger",
            "on_target",
            "noise_shown",
            "copying",
            "soft_rank",
        ):
            assert one[name].dims == ("step",)  # fmt: skip
        assert one["cut"].values.tolist() == ["full", "no last feed-forward", "no first feed-forward"]
        assert one["feed_forward"].values.tolist() == ["first", "last", "both"]
        np.testing.assert_allclose(one["table"].sum(("predicted", "label")), 1, rtol=0, atol=1e-12)
        assert all(np.isfinite(values).all() for values in one.data_vars.values())
        predicted = two_layer_training.predict(config)
        assert np.isnan(predicted["on_target"]).all()
        assert predicted["on_target"].dims == one["on_target"].dims
    # A run alone is the run in company, to float32.
    (alone,) = two_layer_training.simulate([(config, 5)], "cpu")
    for variable, values in alone.data_vars.items():
        np.testing.assert_allclose(found[1][variable], values, rtol=1e-4, atol=1e-5, err_msg=str(variable))


def test_readings_are_of_the_cut_model() -> None:
    """A block without a feed-forward loses nothing by a cut; one with it does."""
    for layer, cut in ((1, "no last feed-forward"), (0, "no first feed-forward")):
        config = training(**{f"feed_forward_{layer}": "none"})
        ((found,),) = (two_layer_training.simulate([(config, 0)], "cpu"),)
        other = "no first feed-forward" if layer else "no last feed-forward"
        for name in ("target", "noise", "loss"):
            values = found[f"cut_{name}"]
            assert values.sel(cut=cut).equals(values.sel(cut="full").assign_coords(cut=cut))
            assert (values.sel(cut=other) != values.sel(cut="full")).all()
        assert (found["margin"].sel(feed_forward="last" if layer else "first") == 0).all()


def kinds() -> list[tuple[str, str]]:
    return [("relu", "relu"), ("relu", "linear"), ("none", "none")]


@pytest.mark.parametrize(("first", "last"), kinds())
def test_what_the_surgery_measures_and_its_identities(first: str, last: str) -> None:
    config = truncation(feed_forward_0=first, feed_forward_1=last)
    found = two_layer_truncation.simulate([(config, 0), (config, 1)], "cpu")
    lacks = {
        str(Place(role, layer))
        for layer, kind in ((0, first), (1, last))
        for role in ("feed_forward_in", "feed_forward_out")
        if kind == "none" or (kind == "linear" and role == "feed_forward_in")
    }
    for one in found:
        assert one["place"].values.tolist() == [f"{role} {layer}" for role, layer in PLACES]
        assert one["rank_fraction"].values.tolist() == list(RANK_FRACTIONS)
        assert one["surgery"].values.tolist() == list(SURGERIES)
        assert one["removed"].values.tolist() == list(REMOVED)
        assert one["component"].values.tolist() == list(range(8))
        there = [str(place) for place in one["place"].values if place not in lacks]
        for name in two_layer_truncation.READ:
            shapes = {
                f"surgery_{name}": ("surgery",),
                f"kept_{name}": ("place", "rank_fraction"),
                f"random_{name}": ("place",),
                f"removed_{name}": ("place", "removed"),
            }
            for variable, dims in shapes.items():
                values = one[variable]
                assert values.dims == dims
                if "place" in dims:
                    assert np.isnan(values.sel(place=sorted(lacks))).all()
                    values = values.sel(place=there)
                assert np.isfinite(values).all()
            whole = float(one[f"surgery_{name}"].sel(surgery="none"))
            kept, removed = one[f"kept_{name}"], one[f"removed_{name}"]
            for place in there:
                assert float(kept.sel(place=place, rank_fraction=1.0)) == whole
                assert float(one[f"random_{name}"].sel(place=place)) != whole or name == "accuracy"
            for layer, cut in ((0, "no first feed-forward"), (1, "no last feed-forward")):
                without = float(one[f"surgery_{name}"].sel(surgery=cut))
                place = f"feed_forward_out {layer}"
                if place in there:
                    assert float(kept.sel(place=place, rank_fraction=0.0)) == without
                    assert without != whole or name == "accuracy"
                    if f"feed_forward_in {layer}" in there:
                        nothing = kept.sel(place=f"feed_forward_in {layer}", rank_fraction=0.0)
                        assert float(nothing) == without
                else:
                    assert without == whole
            for layer in (0, 1):
                places = [f"{role} {layer}" for role in ("value", "attention_output", "value_output")]
                zeros = [float(kept.sel(place=place, rank_fraction=0.0)) for place in places]
                assert zeros == [zeros[0]] * 3
            assert not np.isnan(removed.sel(place=there)).any()
        shares, values = (one[name].sel(place=there) for name in ("noise_share", "singular_value"))
        assert (values.diff("component") <= 0).all()
        top = shares.argmax("component")
        for place in there:
            if int(top.sel(place=place)) < 2:
                named = ("first", "second")[int(top.sel(place=place))]
                one_removed = one["removed_noise"].sel(place=place)
                assert float(one_removed.sel(removed="noise")) == float(one_removed.sel(removed=named))


def test_the_surgery_finds_what_the_training_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [0]
    loss = RecallTransformerRecipe._loss

    def counted(self: RecallTransformerRecipe, *rest: Any) -> torch.Tensor:
        steps[0] += 1
        return loss(self, *rest)

    monkeypatch.setattr(RecallTransformerRecipe, "_loss", counted)
    two_layer_training.simulate([(training(keep=(2, 6)), 4)], "cpu")
    assert steps[0] == 6
    for step in (2, 6):
        two_layer_truncation.simulate([(truncation(step=step), 4)], "cpu")
        two_layer_truncation.simulate([(truncation(step=step, n_evaluation=5), 4)], "cpu")
    assert steps[0] == 6
    two_layer_truncation.simulate([(truncation(step=5), 4)], "cpu")
    assert steps[0] == 9  # from step 2 on
    two_layer_truncation.simulate([(truncation(step=2, noise_level=0.2), 4)], "cpu")
    two_layer_without_feed_forward.simulate([(truncation(step=2, feed_forward_1="none"), 4)], "cpu")
    assert steps[0] == 13


def test_the_surgery_at_the_last_step_is_the_trainings_last_reading() -> None:
    """The same model on other sequences: of enough of them, the same numbers."""
    (read,) = two_layer_training.simulate([(training(keep=(6,), n_evaluation=1000), 4)], "cpu")
    (cut,) = two_layer_truncation.simulate([(truncation(n_evaluation=1000), 4)], "cpu")
    for name, other in (("full", "none"), ("no last feed-forward", "no last feed-forward")):
        for variable in ("target", "noise"):
            # A thousand sequences each, with probabilities that spread by 0.3 at most: standard errors of 0.01.
            first = float(read[f"cut_{variable}"].sel(cut=name).isel(step=-1))
            second = float(cut[f"surgery_{variable}"].sel(surgery=other))
            assert first == pytest.approx(second, abs=0.05)
        assert float(read["cut_noise"].sel(cut="full").isel(step=-1)) != pytest.approx(
            float(read["cut_noise"].sel(cut="no last feed-forward").isel(step=-1)), abs=0.05
        )


def test_what_the_first_gradient_measures() -> None:
    config = two_layer_first_gradient.Config(
        chain="zipf",
        n_tokens=6,
        context_length=12,
        width=8,
        feed_forward_1="linear",
        n_models=2,
        batch_size=3,
    )
    both = two_layer_first_gradient.simulate([(config, 0), (config, 1)], "cpu")
    predicted = two_layer_first_gradient.predict(config)
    for one in (*both, predicted):
        assert one["feed_forward_rate"].dims == ("matrix",)
        assert one["attention_rate"].dims == ("attention_matrix",)
        assert np.isnan(one["feed_forward_rate"].sel(matrix="feed_forward_in 1"))
        assert int(one["feed_forward_rate"].isnull().sum()) == 1
        assert np.isfinite(one["attention_rate"]).all()
    # Models 0 and 1 are of run 0, and 2 and 3 of run 1: one run of four models is their mean.
    (four,) = two_layer_first_gradient.simulate([(dataclasses.replace(config, n_models=4), 0)], "cpu")
    for name in ("feed_forward_rate", "attention_rate"):
        expected = (both[0][name] + both[1][name]) / 2
        np.testing.assert_allclose(four[name], expected, rtol=1e-4, atol=1e-7)  # float32 gradients
        assert not np.allclose(both[0][name], both[1][name], rtol=1e-2, equal_nan=True)


def test_the_first_gradient_by_finite_steps() -> None:
    """A small step down the loss raises the margin by the sum of the rates: the readings of one run, without autograd."""
    config = two_layer_first_gradient.Config(
        chain="zipf", n_tokens=6, context_length=12, width=8, n_models=1, batch_size=4
    )
    (found,) = two_layer_first_gradient.simulate([(config, 3)], "cpu")
    total = float(found["feed_forward_rate"].sum() + found["attention_rate"].sum()) * config.width
    name = two_layer_first_gradient.NAME
    double = initialise(config.architecture, name, (3,), dtype=torch.float64)
    for_margin, for_loss = (
        two_layer_first_gradient._sequences(config, [torch_generator(name, purpose, 3)], "cpu")
        for purpose in ("margin", "loss")
    )
    weights = [one for name, one in double.weights.items() if "." in name]
    for one in weights:
        one.requires_grad_()
    logits = double.logits(for_loss.contexts, for_loss.places.at)
    loss = scored_loss(logits, for_loss.labels, for_loss.places.valid)
    slopes = torch.autograd.grad(loss, weights)
    margins, h = [], 1e-5
    for sign in (1, -1):
        with torch.no_grad():
            for one, slope in zip(weights, slopes, strict=True):
                one -= sign * h * slope
            margins.append(float(noise_margin(double, for_margin, config.problem)))
            for one, slope in zip(weights, slopes, strict=True):
                one += sign * h * slope
    # float32 against float64, and a central difference.
    assert total == pytest.approx((margins[0] - margins[1]) / (2 * h), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_valid_and_differ(name: str) -> None:
    module = contract.experiment(name).module
    if name != "two_layer_first_gradient":
        assert not hasattr(module, "example")  # nothing is predicted, so there is nothing to check
        return
    rng = np.random.default_rng(0)
    assert len({module.example(rng) for _ in range(5)}) > 1
