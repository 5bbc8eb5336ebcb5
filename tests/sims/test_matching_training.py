"""Trainings of the matching recipe: steps against loops and differences, what stays, stacked seeds, and going on from a store."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import sims
from sims.models.decoder import Decoder
from sims.recipes.matching import MatchingRecipe
from sims.streams import torch_generator
from sims.tasks.pair_chains import draw
from sims.training import DivergedError
from tests.sims.small_decoders import by_loop
from tests.sims.small_matching import batches, begun, recipe, trained
from tests.sims.small_transformers import fingerprint


def factors(one: MatchingRecipe) -> list[float]:
    schedule = begun(one).training.schedule
    assert schedule is not None
    return [schedule(step) for step in range(12)]


@pytest.mark.parametrize("train_embedding", [False, True])
@pytest.mark.parametrize(
    "fields",
    [{}, {"output": "tied"}, {"normalisation": "pre", "n_heads": 2}, {"noise": "corrected"}],
    ids=str,
)
def test_what_is_frozen_stays_and_all_else_moves(train_embedding: bool, fields: dict[str, Any]) -> None:
    one = recipe(train_embedding=train_embedding, weight_decay=0.5, **fields)
    before, after = begun(one, 0, 1).model, trained(one, 3, 0, 1)
    prints = fingerprint(before), fingerprint(after)
    for name in before.weights:
        stays = (name == "embedding" and not train_embedding) or "_added." in name
        assert (prints[0][name] == prints[1][name]) == stays, name
        for seed in range(2):
            assert torch.equal(before.weights[name][seed], after.weights[name][seed]) == stays, (name, seed)


@pytest.mark.parametrize("output", ["trained", "tied"])
@pytest.mark.parametrize("mixed", [False, True])
def test_embeddings_of_tokens_that_never_stood_there_have_no_gradient(output: Any, mixed: bool) -> None:
    """Where the output has a matrix of its own; a tied one lowers the logits of all tokens."""
    one = recipe(output=output, mixed=mixed)
    started = begun(one)
    started.training.loss().backward()
    found = started.model.weights["embedding"].grad
    assert found is not None
    ((tokens, _),) = batches(one, 1)
    seen = sorted(set(tokens.flatten().tolist()))
    assert ({1, 2} <= set(seen)) == mixed
    everywhere = list(range(24))
    assert found[0].any(1).nonzero()[:, 0].tolist() == (everywhere if output == "tied" else seen)
    if output == "trained":
        other = started.model.weights["unembedding"].grad
        assert other is not None
        assert bool(other[0].any(1).all())


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_unseen_embeddings_only_decay(weight_decay: float) -> None:
    """By 1 − rate · decay a step, whatever else the training does."""
    one = recipe(weight_decay=weight_decay)
    before, after = (trained(one, step).weights["embedding"].detach()[0] for step in (0, 8))
    assert bool((before[4:16] != after[4:16]).any(1).all())
    shrunk = math.prod(1 - 0.05 * factor * weight_decay for factor in factors(one)[:8])
    for rows in (slice(4), slice(16, None)):
        # Eight roundings of 6e-8.
        torch.testing.assert_close(
            after[rows], before[rows] * shrunk, rtol=1e-6 if weight_decay else 0, atol=0
        )


def by_hand(model: Decoder, seed: int, tokens: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean cross-entropy of one seed at the last position, sentence by sentence, in float64."""
    losses = []
    for row, label in zip(tokens.tolist(), labels.tolist(), strict=True):
        scores = by_loop(model, seed, row)[0][-1]
        top = scores.max()
        losses.append(math.log(math.fsum(np.exp(scores - top))) + top - scores[label])
    return math.fsum(losses) / len(losses)


def in_float64(model: Decoder) -> Decoder:
    return model.with_weights({name: weight.detach().double() for name, weight in model.weights.items()})


def first_sentences(one: MatchingRecipe, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch_generator("matching", "sentences", seed)
    if one.n_train:
        rows = torch.randint(one.n_train, (one.batch_size,), generator=source)
        tokens, labels = one.training_set(seed)
        return tokens[rows], labels[rows]
    drawn = draw(one.problem, one.batch_size, source)
    return drawn.tokens, drawn.labels


VARIANTS = [
    recipe(),
    recipe(normalisation="pre", n_heads=2, mixed=True, n_distractors=1, noise="corrected", noise_start=0.7),
    recipe(normalisation="none", output="tied", feed_forward_width=0, n_noise_pairs=1, causal=False),
    recipe(n_train=6, train_embedding=False, noise="remembered", noise_kind="gaussian", n_layers=3),
]


VARIANT = pytest.mark.parametrize("one", VARIANTS, ids=["post", "pre", "none", "finite set"])


@VARIANT
def test_the_loss_against_a_loop(one: MatchingRecipe) -> None:
    """Of two stacked seeds, whose losses are summed."""
    started = begun(one, 2, 5)
    model = in_float64(started.model)
    expected = sum(by_hand(model, place, *first_sentences(one, seed)) for place, seed in enumerate((2, 5)))
    # float32 logits of order one: a few roundings of 6e-8.
    assert float(started.training.loss().detach()) == pytest.approx(expected, abs=3e-6)


@VARIANT
def test_a_step_of_sgd_by_finite_differences(one: MatchingRecipe) -> None:
    """The entry that moves most of every trained weight: −rate × factor × (slope of the loop's loss + decay × weight)."""
    one = dataclasses.replace(one, optimiser="sgd", gradient_clip=1e9, batch_size=2)
    started, h = begun(one, 2), 1e-5
    before = in_float64(started.model)
    started.training.advance(1)
    batch = first_sentences(one, 2)
    for name, weight in started.model.weights.items():
        if not weight.requires_grad:
            continue
        moved = (weight.detach().double() - before.weights[name])[0]
        place = np.unravel_index(int(moved.abs().argmax()), moved.shape)
        losses = []
        for sign in (1, -1):
            nudged = before.weights[name].clone()
            nudged[0][place] += sign * h
            losses.append(by_hand(before.with_weights({name: nudged}), 0, *batch))
        slope = (losses[0] - losses[1]) / (2 * h) + one.weight_decay * float(before.weights[name][0][place])
        expected = -one.learning_rate / one.warmup_steps * slope
        # Weights of order one are stored in float32 (6e-8 each), slopes to some 1e-6 of themselves; no kink within h.
        assert float(moved[place]) == pytest.approx(expected, rel=1e-4, abs=2e-7), name
        assert abs(expected) > 1e-5, name


def lengths(changes: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of each seed's vector of all parameters."""
    return torch.stack([one.double().flatten(1).square().sum(1) for one in changes]).sum(0).sqrt()


@pytest.mark.parametrize("clip", [0.001, 0.3, 1e3])
def test_the_bound_on_gradients_bounds_each_seeds_step(clip: float) -> None:
    """Under SGD without decay a step is as long as rate times the gradient, or times the bound where that is shorter."""
    one = recipe(optimiser="sgd", weight_decay=0.0, gradient_clip=clip, schedule="constant", warmup_steps=0)
    free = begun(one, 0, 1, 2)
    free.training.loss().backward()
    weights = free.model.weights
    gradients = lengths([each.grad for each in weights.values() if each.grad is not None])
    before, after = weights, trained(one, 1, 0, 1, 2).weights
    moved = lengths([(after[name] - before[name]).detach() for name in weights])
    # Weights of order one and 24 · 4 of them in the largest: float32's rounding of each, 6e-8, in a root of some hundred.
    torch.testing.assert_close(moved, 0.05 * gradients.clamp(max=clip), rtol=1e-4, atol=1e-6)
    assert bool((gradients > clip).all()) == (clip < 1)


@pytest.mark.parametrize("seeds", [(0, 1, 2), (7, 4)])
@VARIANT
def test_stacked_seeds_have_the_loss_and_gradient_of_each_alone(
    one: MatchingRecipe, seeds: tuple[int, ...]
) -> None:
    """Bit for bit on a CPU with one head; the losses' sum to its rounding."""
    together = begun(one, *seeds)
    total = together.training.loss()
    total.backward()
    losses = []
    for at, seed in enumerate(seeds):
        alone = begun(one, seed)
        loss = alone.training.loss()
        loss.backward()
        losses.append(float(loss.detach()))
        for name, weight in alone.model.weights.items():
            stacked = together.model.weights[name]
            assert (weight.grad is None) == (stacked.grad is None) == (not weight.requires_grad)
            if weight.grad is not None:
                assert stacked.grad is not None
                # With several heads other paths of the products are taken: some roundings of float32.
                rtol, atol = (0.0, 0.0) if one.n_heads == 1 else (1e-5, 1e-7)
                torch.testing.assert_close(stacked.grad[at], weight.grad[0], rtol=rtol, atol=atol)
    assert float(total.detach()) == pytest.approx(sum(losses), rel=1e-6)


@VARIANT
def test_stacked_seeds_are_trained_as_alone(one: MatchingRecipe) -> None:
    together = trained(one, 5, 0, 1, 2)
    for seed in range(3):
        alone = trained(one, 5, seed)
        for name, weight in alone.weights.items():
            found = together.weights[name][seed].detach()
            if one.n_heads == 1:
                assert torch.equal(found, weight[0].detach()), name
            else:
                # As above; Adam divides by the root of squares, and a gradient near zero takes its rounding along.
                torch.testing.assert_close(found, weight[0].detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("fields", [{}, {"n_train": 6}, {"noise": "corrected", "noise_start": 0.5}], ids=str)
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_stored_training_goes_on_bit_for_bit(optimiser: str, fields: dict[str, Any]) -> None:
    """Sentences, moments and schedule go on where they were; the noise is drawn again as it was."""
    one = recipe(optimiser=optimiser, **fields)
    for step in (2, 5, 9):
        found = sims.trained(one, 3, step)
        expected = trained(one, step, 3)
        assert found.architecture == expected.architecture
        assert set(found.weights) == set(expected.weights)
        assert all(torch.equal(found.weights[name], weight) for name, weight in expected.weights.items())


def test_a_state_put_back_goes_on_bit_for_bit() -> None:
    """All seeds at once and one by one, into a fresh training."""
    one = recipe(n_train=6, noise="corrected", noise_start=0.5)
    going = begun(one, 3, 5)
    going.training.advance(4)
    states = [[going.training.state()], [going.training.state(place) for place in range(2)]]
    going.training.advance(9)
    for state in states:
        again = begun(one, 3, 5)
        again.training.restore(*state)
        assert again.training.step == 4
        again.training.advance(9)
        for name, weight in going.model.weights.items():
            assert torch.equal(again.model.weights[name], weight)


def test_a_training_that_diverges_stops_and_says_where() -> None:
    one = recipe(
        normalisation="none", optimiser="sgd", learning_rate=1e30, schedule="constant", warmup_steps=0
    )
    started = begun(one)
    with pytest.raises(DivergedError, match=r"^the loss is not finite at step \d+\.$") as caught:
        started.training.advance(10)
    step = int(re.findall(r"\d+", str(caught.value))[0])
    assert 2 <= step <= 4  # the first loss is of fresh weights
    assert started.training.step == step - 1


def test_a_training_of_known_sentences_learns_them() -> None:
    """Four sentences, 100 steps: the loss falls from some ln 24 to a hundredth of it."""
    one = recipe(
        n_train=4, width=8, attention_width=8, learning_rate=0.03, schedule="constant", final_step=100
    )
    started = begun(one)
    first = float(started.training.loss().detach())
    started.training.advance(100)
    assert first > 2
    assert float(started.training.loss().detach()) < 0.03
