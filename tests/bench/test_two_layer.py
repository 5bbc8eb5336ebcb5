"""What the two-layer transformer's readings cost beside its training, what one decomposition a matrix saves, and stacked seeds.

Only ratios are printed, and no time is asserted; what is asserted is that both roads arrive at the same place."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from sims.experiments import two_layer_training, two_layer_truncation
from sims.experiments.two_layer_truncation import PLACES, RANK_FRACTIONS
from sims.interventions import surgery
from sims.interventions.low_rank import kept_rank
from sims.models.transformer import Transformer
from sims.probes import recall_transformer as probes
from sims.recipes.recall_transformer import RecallTransformerRecipe
from sims.roles import matrix, with_matrix
from sims.streams import torch_generator
from sims.training import log_spaced_steps


def shortest(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of each of some works, the least of some rounds in which they take turns: other work here slows them alike."""
    found = dict.fromkeys(works, np.inf)
    for _ in range(repeats):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            found[name] = min(found[name], time.perf_counter() - begin)
    return found


def steps(recipe: RecallTransformerRecipe, seeds: tuple[int, ...], device: str, count: int) -> Transformer:
    """Models after some steps of training, which nobody has read."""
    started = recipe.begin(seeds, device)
    started.training.advance(count)
    model: Transformer = started.model
    return model


def test_readings_against_training() -> None:
    """300 steps, read as densely as two_layer_training reads its 1200 at laptop scale: those of its 24 readings that come first.

    A piece of training and the readings on its way take turns, so that both meet the same other work on the machine.
    """
    config = two_layer_training.SCALES["laptop"].base
    first = [step for step in config.probe_steps.tolist() if step <= 300]
    even = log_spaced_steps(1.0, 1.0, 300.0, config.n_probes).tolist()
    clean, noisy = (
        probes.evaluation(
            config.problem(level), config.n_evaluation, [torch_generator("bench", purpose, 0)], "cpu"
        )
        for purpose, level in (("clean", 0.0), ("noisy", config.noise_level))
    )
    seconds: dict[str, list[float]] = {"training": [], "reading": []}
    for _ in range(2):
        started = config.recipe.begin((0,), "cpu")
        training = 0.0
        for step in range(25, 301, 25):
            begin = time.perf_counter()
            started.training.advance(step)
            training += time.perf_counter() - begin
            with torch.no_grad():
                begin = time.perf_counter()
                read = two_layer_training.readings(started.model, config, clean, noisy)
                seconds["reading"].append(time.perf_counter() - begin)
        seconds["training"].append(training)
        assert np.isfinite(read["loss"]).all()
    training, reading = min(seconds["training"]), min(seconds["reading"])
    print(f"\nreadings: {1e3 * reading:.3g} ms each, a step of training {1e3 * training / 300:.3g} ms")
    for what, count, length in (
        (f"the {len(first)} of its 24 readings up to step 300", len(first), 1),
        (f"{len(even)} readings spread over 300 steps", len(even), 1),
        ("24 readings of the whole 1200 steps", config.n_probes, 4),
    ):
        ratio = 1 + count * reading / (length * training)
        print(f"training with {what}, over training alone: {ratio:.3g} times as long (goal 1.15)")


def places_of(model: Transformer) -> list[tuple[str, int]]:
    return [place for place in PLACES if model.roles.has(*place)]


def one_spectrum(model: Transformer) -> Iterable[Transformer]:
    """The whole table, one decomposition a matrix."""
    for role, layer in places_of(model):
        yield from surgery.truncations(model, role, layer, RANK_FRACTIONS)


def one_each(model: Transformer) -> Iterable[Transformer]:
    """The whole table, one decomposition an entry, the full one too: the plain loop of the released codes."""
    for role, layer in places_of(model):
        for fraction in RANK_FRACTIONS:
            whole = matrix(model, role, layer)
            left, values, right = torch.linalg.svd(whole.double(), full_matrices=False)
            kept = slice(0, kept_rank(fraction, whole.shape))
            cut = (left[..., kept] * values[..., None, kept]) @ right[..., kept, :]
            yield with_matrix(model, role, layer, cut.to(whole.dtype))


def one_each_but_the_whole(model: Transformer) -> Iterable[Transformer]:
    """The whole table by our function for a single cut, which returns a full matrix untouched."""
    for role, layer in places_of(model):
        for fraction in RANK_FRACTIONS:
            yield surgery.truncated(model, role, layer, fraction)


@pytest.mark.parametrize(("width", "with_pass"), [(256, False), (64, False), (64, True)])
def test_one_decomposition_a_matrix_against_one_an_entry(width: int, with_pass: bool) -> None:
    """The making of all models; also with the reading of each on the sequences of the laptop scale."""
    config = two_layer_truncation.Config(width=width)
    model = steps(config.recipe, (0,), "cpu", 1)
    model = model.with_weights({name: one.detach() for name, one in model.weights.items()})
    asked = probes.evaluation(
        config.problem(0.0), config.n_evaluation, [torch_generator("bench", "clean", 0)], "cpu"
    )

    def made(road: Callable[[Transformer], Iterable[Transformer]]) -> None:
        for changed in road(model):
            if with_pass:
                with torch.no_grad():
                    probes.answers(changed.logits(asked.contexts, asked.places.at), asked, config.problem())

    # The matrix at the place is the same by both roads; float32 entries below ten, rounded a few times.
    entries = [place for place in places_of(model) for _ in RANK_FRACTIONS]
    for place, first, second in zip(entries, one_spectrum(model), one_each(model), strict=True):
        torch.testing.assert_close(matrix(first, *place), matrix(second, *place), rtol=0, atol=1e-5)
    times = shortest(
        {
            "one": lambda: made(one_spectrum),
            "each": lambda: made(one_each),
            "but the whole": lambda: made(one_each_but_the_whole),
        },
        2,
    )
    passes = ", forward passes included" if with_pass else ""
    print(
        f"\none decomposition a matrix over one an entry, {len(places_of(model))} places × {len(RANK_FRACTIONS)} "
        f"rank fractions, width {width}{passes}: {times['each'] / times['one']:.3g} times as fast "
        f"({times['each']:.3g} s against {times['one']:.3g} s; goal 10); "
        f"{times['but the whole'] / times['one']:.3g} where the full entry needs none"
    )


def test_decompositions_against_products() -> None:
    """What bounds the ratios above: they are below twelve and eleven, as there are twelve entries a matrix."""
    model = steps(RecallTransformerRecipe(width=256), (0,), "cpu", 1)
    found = surgery.spectrum(model, "key", 0)
    whole = matrix(model, "key", 0).detach()
    times = shortest(
        {
            "decomposition": lambda: torch.linalg.svd(whole.double(), full_matrices=False),
            "product": lambda: list(found.keep_each([0, 5, 12, 25, 38, 51, 76, 102, 128, 179, 230, 256])),
        },
        3,
    )
    print(
        f"\none decomposition, 256 × 256: {times['decomposition'] / times['product']:.3g} times as long as 12 cuts"
    )


DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_stacked_seeds_against_separate_ones(device: str) -> None:
    recipe, seeds = RecallTransformerRecipe(), (0, 1, 2, 3)
    count = 40 if device == "cpu" else 300

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def together() -> Transformer:
        model = steps(recipe, seeds, device, count)
        wait()
        return model

    def apart() -> list[Transformer]:
        models = [steps(recipe, (seed,), device, count) for seed in seeds]
        wait()
        return models

    stacked, single = together(), apart()
    for name, one in stacked.weights.items():
        for place in range(4):
            # float32 over some steps; on a GPU products of another shape are added in another order.
            torch.testing.assert_close(
                one[place].detach(), single[place].weights[name][0].detach(), rtol=0, atol=1e-3
            )
    times = shortest({"together": together, "apart": apart}, 2)
    print(
        f"\n4 stacked seeds over 4 separate ones, {count} steps on {device}: {times['apart'] / times['together']:.3g} "
        f"times as fast ({times['apart']:.3g} s against {times['together']:.3g} s)"
    )
