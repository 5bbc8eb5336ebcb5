"""Sentences with a slot a pair, and the decoder that is trained on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sims.experiments.parallel_training import Config, within_reach
from sims.recipes.pair_reader import PairReaderRecipe, token_logits
from sims.streams import torch_generator
from sims.tasks.pair_chains import PairChains
from sims.tasks.pair_slots import draw_slots, n_ids, sentence_of, slot_features
from sims.trainings import trained
from theory import parallel_reasoning as theory

SMALL = {
    "n_pairs": 6, "n_distractors": 0, "n_tokens": 8, "width": 32, "attention_width": 32, "feed_forward_width": 32,
    "batch_size": 16,
}  # fmt: skip


def chains(n_pairs: int = 7, n_steps: int = 4, n_tokens: int = 9) -> PairChains:
    return PairChains(n_pairs, n_steps, 2, vocabulary_size=n_tokens, mixed=True, first_token=n_steps + 1)


def followed(sentence: list[int], steps: int) -> int:
    """The token some steps after the last one, by looking pairs up."""
    after = dict(zip(sentence[0:-1:2], sentence[1:-1:2], strict=True))
    token = sentence[-1]
    for _ in range(steps):
        token = after[token]
    return token


def test_labels_follow_the_pairs_of_the_slots() -> None:
    problem = chains()
    drawn = draw_slots(problem, 300, torch_generator("test", "slots", 0))
    sentences = sentence_of(problem, drawn.ids)
    assert drawn.ids.shape == (300, 8)
    for sentence, label, steps in zip(
        sentences.tolist(), drawn.labels.tolist(), drawn.n_steps.tolist(), strict=True
    ):
        assert followed(sentence, steps) == label
        assert len(set(sentence)) == problem.n_pairs + 1
    assert set(drawn.n_steps.tolist()) == {1, 2, 3, 4}


def test_the_order_of_the_last_two_pairs_is_told() -> None:
    problem = chains()
    drawn = draw_slots(problem, 300, torch_generator("test", "slots", 5))
    for sentence, steps, first in zip(
        sentence_of(problem, drawn.ids).tolist(),
        drawn.n_steps.tolist(),
        drawn.last_pair_first.tolist(),
        strict=True,
    ):
        left = sentence[0:-1:2]
        places = [left.index(followed(sentence, step)) for step in range(steps)]
        assert first == (steps > 1 and places[-1] < places[-2])
    assert 0.3 < float(drawn.last_pair_first[drawn.n_steps > 1].double().mean()) < 0.7  # a half, of 200 or so


def test_features_tell_what_a_slot_holds() -> None:
    problem = chains(n_tokens=8)
    features = slot_features(problem)
    assert features.shape == (n_ids(problem), 2 * 8 + 4)
    assert bool((features.sum(1) == 2).all())
    assert len({tuple(row) for row in features.tolist()}) == n_ids(problem)
    drawn = draw_slots(problem, 50, torch_generator("test", "slots", 1))
    sentences = sentence_of(problem, drawn.ids)
    held = features[drawn.ids]
    left, right, steps = held[..., :8].argmax(-1), held[..., 8:16].argmax(-1), held[..., 16:].argmax(-1)
    assert torch.equal(left[:, :-1], sentences[:, 0:-1:2])
    assert torch.equal(right[:, :-1], sentences[:, 1:-1:2])
    assert torch.equal(right[:, -1], sentences[:, -1])
    assert torch.equal(steps[:, -1] + 1, drawn.n_steps)


def test_sentences_of_one_number_of_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^mixed is False; .*\.$"):
        draw_slots(PairChains(5, 2, 2), 3, torch_generator("test", "slots", 0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 20}, "width is 20; it must be at least 32"),
        ({"n_pairs": 5}, "n_pairs is 5; it must be at least 6"),
        ({"n_tokens": 6}, "vocabulary_size is 6; it must be at least 14"),
        ({"feature_norm": 0.0}, "feature_norm is 0.0"),
        ({"gradient_clip": float("nan")}, "gradient_clip is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"n_heads": 3}, "n_heads is 3; it must divide"),
        ({"normalisation": "rms"}, "normalisation"),
    ],
)
def test_bad_settings_are_one_sentence(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        PairReaderRecipe(**fields)  # type: ignore[arg-type]
    assert str(caught.value).endswith(".")


def test_only_what_reads_is_trained() -> None:
    recipe = PairReaderRecipe(**SMALL, final_step=5, warmup_steps=1)
    first, last = recipe.begin((0,), "cpu").model, trained(recipe, 0, 5)
    assert torch.equal(first.weights["embedding"], last.weights["embedding"])
    assert not bool(last.weights["positions"].any())
    moved = {name for name, one in first.weights.items() if not torch.equal(one, last.weights[name])}
    assert moved == set(first.weights) - {"embedding", "positions"}


def test_features_are_orthogonal_and_of_the_norm_asked_for() -> None:
    recipe = PairReaderRecipe(**SMALL, feature_norm=1.5)
    rows = recipe.begin((3,), "cpu").model.weights["embedding"][0].double()
    wanted = slot_features(recipe.problem)
    assert torch.allclose(rows @ rows.T, 1.5**2 * wanted @ wanted.T, atol=1e-5)  # float32 weights of some 1.5


@torch.no_grad()
def test_without_the_mask_the_order_of_pairs_cannot_matter() -> None:
    recipe = PairReaderRecipe(**SMALL, causal=False)
    model = recipe.begin((1,), "cpu").model
    drawn = draw_slots(recipe.problem, 40, torch_generator("test", "slots", 2))
    shuffled = torch.cat([drawn.ids[:, :-1].flip(1), drawn.ids[:, -1:]], 1)
    free = [token_logits(model, ids[None], recipe.n_tokens) for ids in (drawn.ids, shuffled)]
    assert torch.allclose(free[0], free[1], atol=1e-5)  # sums in another order, float32
    model = PairReaderRecipe(**SMALL).begin((1,), "cpu").model
    masked = [token_logits(model, ids[None], recipe.n_tokens) for ids in (drawn.ids, shuffled)]
    assert float((masked[0] - masked[1]).abs().max()) > 1e-3


def test_classes_of_orders_are_those_of_the_theorem() -> None:
    """The simulator's rules on tokens sort sentences as theory sorts orders, and in the share of its law."""
    config = Config(n_evaluation=10)
    drawn = draw_slots(config.problem, 6000, torch_generator("test", "slots", 4))
    within = within_reach(config, drawn)
    sentences = sentence_of(config.problem, drawn.ids).numpy()
    longest = np.flatnonzero(drawn.n_steps.numpy() == 4)
    for row in longest[:300]:
        left = sentences[row, 0:-1:2].tolist()
        places, token = [], int(sentences[row, -1])
        while token in left:
            places.append(left.index(token))
            token = int(sentences[row, 2 * places[-1] + 1])
        assert bool(within[row]) == (theory.reach(places, 3) >= 4)
    share = float(within[torch.from_numpy(longest)].double().mean())
    assert abs(share - 1 / 3) < 5 * (2 / 9 / len(longest)) ** 0.5  # five standard errors of a share
    assert bool(within[drawn.n_steps < 4].all())
