"""Frozen embeddings that are the output too, and what is claimed of tokens that a training never had, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import sims
from sims import contract
from sims.experiments import matching_new_tokens
from sims.experiments.matching_new_tokens import Config
from sims.models.decoder import initialise_decoder
from sims.probes import matching as probes
from sims.recipes.frozen_matching import FrozenMatchingRecipe
from sims.tasks.pair_chains import PairChains

SMALL: dict[str, Any] = {
    "n_pairs": 3, "n_steps": 1, "n_layers": 2, "n_tokens": 20, "n_unseen_tokens": 10, "first_token": 0, "width": 16,
    "attention_width": 16, "feed_forward_width": 16, "batch_size": 16, "final_step": 5, "learning_rate": 1e-2,
}  # fmt: skip


class Told:
    """A model that tells the logits it is made with."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.told = logits

    def logits(self, tokens: torch.Tensor, last: bool) -> torch.Tensor:
        assert last
        assert len(tokens) == len(self.told)
        return self.told[:, :, None]


def test_every_token_has_an_embedding_of_one_length_in_the_direction_that_was_drawn() -> None:
    recipe = FrozenMatchingRecipe(**SMALL, embedding_norm=2.0)
    model = recipe.begin((0, 3), "cpu").model
    drawn = initialise_decoder(recipe.architecture, recipe.NAME, (0, 3))
    embedding = model.weights["embedding"]
    torch.testing.assert_close(embedding.norm(dim=-1), torch.full(embedding.shape[:2], 2.0))
    cosine = torch.nn.functional.cosine_similarity(embedding, drawn.weights["embedding"], dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert torch.equal(model.weights["key.0"], drawn.weights["key.0"])  # all else is as without


@pytest.mark.parametrize("train_embedding", [False, True])
def test_frozen_embeddings_stay_and_trained_ones_move(train_embedding: bool) -> None:
    started = FrozenMatchingRecipe(**SMALL, train_embedding=train_embedding).begin((1,), "cpu")
    weights = started.model.weights
    before = {name: value.detach().clone() for name, value in weights.items()}
    started.training.advance(5)
    assert "unembedding" not in weights
    assert torch.equal(weights["embedding"], before["embedding"]) == (not train_embedding)
    assert not torch.equal(weights["query.0"], before["query.0"])


@pytest.mark.parametrize("embedding_norm", [0.0, -1.0, float("inf"), float("nan")])
def test_a_length_that_is_none_is_one_sentence(embedding_norm: float) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        FrozenMatchingRecipe(embedding_norm=embedding_norm)
    assert str(caught.value) == f"embedding_norm is {embedding_norm}; it must be finite and above 0."


def test_what_an_experiment_adds_is_no_part_of_the_training() -> None:
    config = Config(mixed=True, embedding_norm=1.5, n_probes=3)
    assert config.recipe == FrozenMatchingRecipe(mixed=True, embedding_norm=1.5)
    assert type(config.recipe) is FrozenMatchingRecipe
    with pytest.raises(ValueError, match="mixed is False; each number of steps is asked for and read apart"):
        Config()


def test_answers_are_taken_among_all_tokens_and_among_their_own_kind() -> None:
    """Logits by hand: each sentence's label comes second to a token of another kind, or is the best, or is not."""
    problem = PairChains(3, 2, 1, vocabulary_size=6, mixed=True, first_token=4)
    asked = probes.ask(problem, 60, [torch.Generator().manual_seed(1)])
    logits = torch.nn.functional.one_hot(asked.labels, 12).float()
    other = torch.where(asked.labels == 5, 6, 5)
    steps_of_two = asked.n_steps == 2
    logits[..., 11] = 2.0 * steps_of_two  # an id of no token of the problem, in questions about two steps
    wrong = torch.zeros(60, dtype=torch.bool)
    wrong[:20] = True
    logits[0, wrong] += 3 * torch.nn.functional.one_hot(other[0, wrong], 12)
    found = matching_new_tokens.answered(Told(logits), asked, problem)  # type: ignore[arg-type]
    right = [float((~wrong)[asked.n_steps[0] == number].double().mean()) for number in (1, 2)]
    np.testing.assert_allclose(found[0].numpy(), [[right[0], 0], right])


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_claims_read_one_step_with_new_tokens_of_their_own_arm(scale: str) -> None:
    plan = contract.plan("matching_new_tokens", scale)
    few, many = sorted(plan.grid["n_tokens"])
    axes: dict[str, Any] = {
        "train_embedding": [False, True],
        "n_tokens": [few, many],
        "seed": [0, 1],
        "pairs": ["seen", "unseen", "new tokens"],
        "among": ["all tokens", "own kind"],
        "steps": [1, 2],
        "step": [100, 200],
    }
    accuracy = xr.DataArray(np.zeros([len(one) for one in axes.values()]), axes)
    accuracy.loc[{"pairs": "seen", "among": "all tokens", "steps": 1, "step": 200}] = 0.95

    def verdicts(frozen: float, kind: float, few_kind: float, tied: float) -> list[str]:
        for trained, tokens, among, value in (
            (False, many, "all tokens", frozen),
            (False, many, "own kind", kind),
            (False, few, "own kind", few_kind),
            (True, many, "all tokens", tied),
        ):
            arm = {"train_embedding": trained, "n_tokens": tokens, "among": among}
            accuracy.loc[{**arm, "pairs": "new tokens", "steps": 1, "step": 200}] = value
        outcome = sims.Outcome(plan, xr.Dataset({"accuracy": accuracy}))
        return [claim.check(outcome).verdict for claim in matching_new_tokens.CLAIMS]

    assert verdicts(0.85, 0.9, 0.65, 0.6) == ["holds"] * 3
    assert verdicts(0.79, 0.9, 0.65, 0.5) == ["fails", "holds", "holds"]
    assert verdicts(0.85, 0.9, 0.75, 0.6) == ["holds", "fails", "holds"]
    assert verdicts(0.85, 0.9, 0.65, 0.7) == ["holds", "holds", "fails"]
    for trained, tokens, told in (
        (False, few, ["holds", "not_measured", "holds"]),
        (True, many, ["holds", "holds", "not_measured"]),
    ):
        arm = {"train_embedding": trained, "n_tokens": tokens, "pairs": "seen", "steps": 1, "step": 200}
        accuracy.loc[arm] = 0.8
        assert verdicts(0.85, 0.9, 0.65, 0.6) == told
        accuracy.loc[arm] = 0.95


def test_without_trained_embeddings_nothing_is_said_of_them() -> None:
    plan = contract.plan("matching_new_tokens", "laptop")
    axes: dict[str, Any] = {
        **plan.grid,
        "seed": [0, 1],
        "pairs": ["seen", "unseen", "new tokens"],
        "among": ["all tokens", "own kind"],
        "steps": [1, 2],
        "step": [200],
    }
    accuracy = xr.DataArray(
        np.ones([len(one) for one in axes.values()]), {name: list(one) for name, one in axes.items()}
    )
    outcome = sims.Outcome(plan, xr.Dataset({"accuracy": accuracy}))
    found = [claim.check(outcome) for claim in matching_new_tokens.CLAIMS]
    assert [one.verdict for one in found] == ["holds", "fails", "not_measured"]
    assert found[-1].note == "this scale trains no embeddings"
