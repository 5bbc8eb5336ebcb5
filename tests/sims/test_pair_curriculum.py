"""Training by stages: one number of steps more once all before it are answered; and what is claimed of it, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import sims
from sims import contract
from sims.experiments import parallel_curriculum, parallel_depth, parallel_lengths
from sims.experiments.parallel_curriculum import ORDERS, Config, within_reach
from sims.models.decoder import Decoder
from sims.recipes import pair_curriculum
from sims.recipes.pair_curriculum import PairCurriculumRecipe, train_by_stages
from sims.recipes.pair_reader import token_logits
from sims.streams import torch_generator
from sims.tasks.pair_chains import draw
from sims.tasks.pair_slots import close_chains, draw_slots, sentence_of
from theory import parallel_reasoning as theory

SMALL: dict[str, Any] = {
    "n_pairs": 6, "n_distractors": 0, "n_tokens": 8, "width": 32, "attention_width": 32, "feed_forward_width": 32,
    "batch_size": 16, "warmup_steps": 0, "final_step": 20, "check_steps": 4, "n_checked": 200,
}  # fmt: skip


def nothing(model: Decoder) -> dict[str, np.ndarray]:  # noqa: ARG001
    return {}


def weights_at_the_end(model: Decoder) -> dict[str, np.ndarray]:
    return {"unembedding": model.weights["unembedding"].detach().numpy().copy()}


def test_one_step_more_is_asked_for_when_all_so_far_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where anything will do, at every look; where all must be right, never. And no more steps are drawn than are asked for."""
    drawn: list[tuple[int, int]] = []

    def drawing(*arguments: Any) -> Any:
        found = draw_slots(*arguments)
        drawn.append((len(found.labels), int(found.n_steps.max())))
        return found

    monkeypatch.setattr(pair_curriculum, "draw_slots", drawing)
    # some answers of 200 are right by chance, of each number of steps, of 8 tokens: none with probability below 1e-2 in all
    easy = PairCurriculumRecipe(**SMALL, promotion=1e-9)
    found = train_by_stages(easy, (0,), (3, 4, 5, 8, 9, 12, 13, 20), nothing)
    assert found["asked"].tolist() == [[1, 1, 2, 2, 3, 3, 4, 4]]
    batches, looks = ([most for size, most in drawn if size == one] for one in (16, 200))
    assert [max(batches[start : start + 4]) for start in (0, 4, 8, 12)] == [1, 2, 3, 4]
    assert looks == [1, 2, 3, 4, 4]
    hard = PairCurriculumRecipe(**SMALL, promotion=0.999)
    assert train_by_stages(hard, (0,), (20,), nothing)["asked"].tolist() == [[1]]


def test_every_number_of_steps_so_far_must_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is always right on the newest number and always wrong on the others comes to two steps, and no farther."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def drawing(*arguments: Any) -> Any:
        found = draw_slots(*arguments)
        seen.append((found.labels, found.n_steps))
        return found

    def answers(model: Decoder, ids: torch.Tensor, n_tokens: int) -> torch.Tensor:
        logits = token_logits(model, ids, n_tokens)
        labels, steps = seen[-1]
        if len(labels) == 200:  # a look
            right = torch.where(steps == steps.max(), labels, (labels + 1) % n_tokens)
            return 0 * logits + torch.nn.functional.one_hot(right, n_tokens)
        return logits

    monkeypatch.setattr(pair_curriculum, "draw_slots", drawing)
    monkeypatch.setattr(pair_curriculum, "token_logits", answers)
    recipe = PairCurriculumRecipe(**SMALL, promotion=0.5)
    assert train_by_stages(recipe, (0,), (3, 7, 20), nothing)["asked"].tolist() == [[1, 2, 2]]


def test_lengths_are_mixed_in_training_and_looks_are_at_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the shortest chain that leaves the longest task asked so far a start; those that come next need longer ones."""
    drawn: list[tuple[int, int, int]] = []

    def drawing(problem: Any, size: int, *rest: Any) -> Any:
        drawn.append((size, problem.n_steps, problem.n_pairs))
        return draw_slots(problem, size, *rest)

    monkeypatch.setattr(pair_curriculum, "draw_slots", drawing)
    recipe = PairCurriculumRecipe(
        **{**SMALL, "final_step": 120, "check_steps": 40}, promotion=1e-9, mixed_lengths=True
    )
    train_by_stages(recipe, (0,), (120,), nothing)
    for most in (1, 2, 3):
        lengths = [pairs for size, steps, pairs in drawn if size == 16 and steps == most]
        assert set(lengths) == set(range(most + recipe.tail, recipe.n_pairs + 1))
        assert len(lengths) == 40
    assert {pairs for size, _, pairs in drawn if size == 200} == {recipe.n_pairs}


@pytest.mark.parametrize("mixed_lengths", [False, True])
def test_a_seed_does_not_depend_on_its_neighbours(mixed_lengths: bool) -> None:
    recipe = PairCurriculumRecipe(**SMALL, promotion=0.1, mixed_lengths=mixed_lengths)
    together = train_by_stages(recipe, (3, 5), (10, 20), weights_at_the_end)
    assert together["asked"][0, -1] != together["asked"][1, -1]  # each seed has its own stage
    for place, seed in enumerate((3, 5)):
        alone = train_by_stages(recipe, (seed,), (10, 20), weights_at_the_end)
        assert alone["asked"].tolist() == together["asked"][place : place + 1].tolist()
        # twenty AdamW steps in float32; a sum in another order moves a step by a share of its rate of 2e-3
        np.testing.assert_allclose(alone["unembedding"][0], together["unembedding"][place], rtol=0, atol=2e-3)


def test_when_the_stages_are_read_does_not_matter() -> None:
    recipe = PairCurriculumRecipe(**SMALL, promotion=0.05)
    often, once = (
        train_by_stages(recipe, (3,), steps, weights_at_the_end) for steps in (range(1, 21), (20,))
    )
    assert np.array_equal(often["unembedding"][..., -1], once["unembedding"][..., -1])
    assert often["asked"][0, -1] == once["asked"][0, -1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"promotion": 1.0}, "promotion is 1.0; it must be above 0 and below 1."),
        ({"promotion": float("nan")}, "promotion is nan; it must be above 0 and below 1."),
        ({"check_steps": 0}, "check_steps is 0; it must be at least 1."),
        ({"n_checked": -1}, "n_checked is -1; it must be at least 1."),
        ({"n_pairs": 5}, "n_pairs is 5; it must be at least 6 (n_steps + tail)."),
    ],
)
def test_bad_settings_are_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        PairCurriculumRecipe(**{**SMALL, **fields})
    assert str(caught.value) == message


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n_layers", [2, 3])
def test_classes_of_orders_are_those_of_the_theorem(n_layers: int, causal: bool) -> None:
    """Rules run on tokens sort sentences as theory sorts orders, at each depth and mask."""
    config = Config(n_pairs=11, n_steps=9, n_distractors=0, n_tokens=12, n_layers=n_layers, causal=causal)
    drawn = draw_slots(config.problem, 400, torch_generator("test", "curriculum", 4))
    within = within_reach(config, drawn)
    for sentence, steps, found in zip(
        sentence_of(config.problem, drawn.ids).tolist(), drawn.n_steps.tolist(), within.tolist(), strict=True
    ):
        left = sentence[0:-1:2]
        places, token = [], sentence[-1]
        while token in left:
            places.append(left.index(token))
            token = sentence[2 * places[-1] + 1]
        assert found == (theory.reach(places, n_layers + 1, causal) >= steps)
    assert bool(within.all()) == (n_layers == 3 and not causal)


ENDS = {True: [1.0, 1.0, 0.97, 0.6, 0.1], False: [1.0, 1.0, 1.0, 0.98, 0.2]}
"""Accuracy by number of steps at the last step, with the mask and without."""
FOUR = {True: [0.95, 0.4], False: [0.98, np.nan]}
"""On four steps, within reach and beyond."""


def ended(name: str = "parallel_curriculum", scale: str = "laptop", **changes: float) -> sims.Outcome:
    """An outcome by hand; two seeds alike, up to 0.01. Changes are with the mask to three steps and to four within reach and
    beyond, without it to five."""
    axes: dict[str, Any] = {
        "causal": [True, False],
        "seed": [0, 1],
        "steps": np.arange(1, 6),
        "step": [4000, 8000],
    }
    accuracy = xr.DataArray(np.zeros([len(one) for one in axes.values()]), axes)
    by_reach = accuracy.expand_dims(order=list(ORDERS)).copy()
    for causal in (True, False):
        for seed, shift in ((0, 0.0), (1, -0.01)):
            where = {"causal": causal, "seed": seed, "step": 8000}
            accuracy.loc[where] = np.array(ENDS[causal]) + shift
            for order, four in zip(ORDERS, FOUR[causal], strict=True):
                by_reach.loc[{**where, "steps": 4, "order": order}] = four + shift
            if causal and "three" in changes:
                accuracy.loc[{**where, "steps": 3}] = changes["three"] + shift
            if not causal and "five" in changes:
                accuracy.loc[{**where, "steps": 5}] = changes["five"] + shift
            if causal and "outside" in changes:
                by_reach.loc[{**where, "steps": 4, "order": ORDERS[1]}] = changes["outside"] + shift
            if causal and "inside" in changes:
                by_reach.loc[{**where, "steps": 4, "order": ORDERS[0]}] = changes["inside"] + shift
    return sims.Outcome(contract.plan(name, scale), xr.Dataset({"accuracy": accuracy, "by_reach": by_reach}))


def test_claims_read_the_last_step() -> None:
    def checked(**changes: float) -> dict[str, contract.Finding]:
        outcome = ended(**changes)
        return {claim.id: claim.check(outcome) for claim in parallel_curriculum.CLAIMS}

    found = checked()
    for name, value in (("W6.9", 0.975), ("W6.10", 0.965), ("W6.11", 0.55)):
        assert found[name].measured == pytest.approx(value), name
    # two seeds 0.01 apart have an interval of ± 12.7 · 0.005 = 0.064
    assert [found[name].verdict for name in ("W6.9", "W6.10", "W6.11")] == ["holds", "holds", "fails"]
    assert checked(inside=0.98)["W6.11"].verdict == "holds"
    assert checked(inside=0.68)["W6.11"].verdict == "fails"
    assert checked(inside=0.98, outside=0.75)["W6.11"].verdict == "fails"
    assert checked(three=0.9)["W6.10"].verdict == "fails"
    assert checked(five=0.6)["W6.9"].verdict == "fails"


def test_claims_without_the_mask_do_not_judge_runs_with_it() -> None:
    outcome = ended()
    chosen = sims.Outcome(outcome.plan, outcome.measured.sel(causal=True, drop=True))
    for claim in (*parallel_curriculum.CLAIMS, *parallel_depth.CLAIMS):
        with pytest.raises(KeyError):
            claim.check(chosen)


def test_claims_on_depth_read_their_own_mask_number_and_order() -> None:
    """One number is put wrong at a time, and just one claim fails."""
    plan = contract.plan("parallel_depth", "laptop")
    axes: dict[str, Any] = {
        "causal": [True, False],
        "seed": [0, 1],
        "steps": np.arange(1, 14),
        "step": [16_000],
    }
    ones = xr.DataArray(np.ones((2, 2, 13, 1)), axes)
    orders = xr.DataArray([1.0, 0.5], {"order": list(ORDERS)})

    def failing(**changes: tuple[dict[str, Any], float]) -> list[str]:
        read = {"accuracy": ones.copy(), "on_rings": ones.copy(), "by_reach": ones * orders}
        read["by_reach"].loc[{"steps": [7, 12, 13], "order": ORDERS[0]}] = -9.0  # is not read
        for name, (where, value) in changes.items():
            read[name].loc[where] = value
        outcome = sims.Outcome(plan, xr.Dataset(read))
        verdicts = {claim.id: claim.check(outcome).verdict for claim in parallel_depth.CLAIMS}
        assert set(verdicts.values()) <= {"holds", "fails"}
        return [name for name, verdict in verdicts.items() if verdict == "fails"]

    assert failing() == []
    for causal, steps, name in (
        (False, 7, "W6.12"),
        (False, 9, "W6.13"),
        (False, 13, "W6.18"),
        (True, 4, "W6.19"),
        (True, 7, "W6.20"),
    ):
        assert failing(accuracy=({"causal": causal, "steps": steps}, 0.89)) == [name]
    assert failing(on_rings=({"causal": False, "steps": 9}, 0.79)) == ["W6.17"]
    assert failing(by_reach=({"causal": True, "steps": 9, "order": ORDERS[0]}, 0.1)) == ["W6.21"]
    assert failing(by_reach=({"causal": False, "order": ORDERS[0]}, 0.1)) == []


def test_claims_on_lengths_compare_chains_of_one_pair_less() -> None:
    """Four steps on shorter chains; what five steps lose by them."""
    plan = contract.plan("parallel_lengths", "laptop")
    axes = {"seed": [0, 1], "missing": [0, 1, 2], "steps": np.arange(1, 6), "step": [8000]}
    accuracy = xr.DataArray(np.ones((2, 3, 5, 1)), axes)
    accuracy.loc[{"steps": 5}] = np.array([0.9, 0.5, 0.1])[:, None]
    longest = xr.DataArray(np.ones((2, 4, 1)), {"seed": [0, 1], "room": [2, 3, 4, 5], "step": [8000]})
    longest.loc[{"room": 5}] = 0.6
    rings = accuracy.copy()
    rings.loc[{"steps": 5}] = np.array([0.9, 0.15, 0.1])[:, None]

    def verdicts() -> list[str]:
        read = {"accuracy": accuracy, "longest": longest, "on_rings": rings}
        outcome = sims.Outcome(plan, xr.Dataset(read))
        return [claim.check(outcome).verdict for claim in parallel_lengths.CLAIMS]

    assert verdicts() == ["holds"] * 4
    rings.loc[{"missing": 1, "steps": 4}] = 0.89  # four steps are lost too
    assert verdicts() == ["holds"] * 3 + ["fails"]
    rings.loc[{"missing": 1, "steps": 4}] = 1.0
    rings.loc[{"missing": 1, "steps": 5}] = 0.45  # lost 0.25 only, of the 0.7 below
    accuracy.loc[{"missing": 1, "steps": 5}] = 0.7
    accuracy.loc[{"missing": 1, "steps": 4}] = 0.8
    longest.loc[{"room": 2}] = 0.4
    assert verdicts() == ["fails"] * 4


@pytest.mark.parametrize("scale", ["laptop", "paper"])
@pytest.mark.parametrize(
    "module", [parallel_curriculum, parallel_depth, parallel_lengths], ids=lambda one: one.__name__
)
def test_every_scale_has_what_its_claims_read(module: Any, scale: str) -> None:
    """Where everything is answered: no claim asks for steps or masks that the scale lacks."""
    plan = contract.plan(module.__name__.rpartition(".")[2], scale)
    config = plan.configs[0]
    axes: dict[str, Any] = {
        "seed": [0, 1],
        **plan.grid,
        "steps": range(1, config.n_steps + 1),
        "step": [config.final_step],
    }
    if module is parallel_lengths:
        axes["missing"] = range(config.most_missing + 1)
    accuracy = xr.DataArray(
        np.ones([len(one) for one in axes.values()]), {name: list(one) for name, one in axes.items()}
    )
    read = xr.Dataset({"accuracy": accuracy, "by_reach": accuracy.expand_dims(order=list(ORDERS))})
    read["on_rings"] = accuracy
    if module is parallel_lengths:
        read["longest"] = accuracy.isel(missing=0, steps=0, drop=True).expand_dims(room=list(config.rooms))
    for claim in module.CLAIMS:
        assert claim.check(sims.Outcome(plan, read)).verdict in ("holds", "fails")


def test_pairs_beyond_the_label_are_counted_on_its_own_chain() -> None:
    """The chain's end is as many pairs from the label as are left when start and steps are taken off."""
    config = Config(n_pairs=8, n_steps=3, n_distractors=2, n_tokens=13, n_probes=1)
    draws = [torch_generator("test", "beyond", 7) for _ in range(2)]
    drawn = draw_slots(config.problem, 300, draws[0])
    plain = draw(config.problem, 300, draws[1])
    expected = config.n_pairs - plain.start - plain.n_steps
    assert torch.equal(parallel_lengths.pairs_beyond(config, drawn.ids, drawn.labels), expected)
    assert set(expected[plain.n_steps == 3].tolist()) == set(
        range(2, 6)
    )  # two to five, what eight pairs leave of three steps


@pytest.mark.parametrize("most_missing", [0, 4, -1])
def test_chains_cannot_be_shorter_than_the_longest_task(most_missing: int) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parallel_lengths.Config(
            n_pairs=9, n_steps=4, n_distractors=0, n_tokens=16, n_probes=1, most_missing=most_missing
        )
    wanted = f"most_missing is {most_missing}; it must be from 1 to 3, so that the longest task has a start."
    assert str(caught.value) == wanted


def test_shorter_chains_are_asked_of_the_models_of_parallel_curriculum() -> None:
    """The same seed trains the same model: on chains of full length both experiments read it alike, up to other questions."""
    settings = {
        **SMALL,
        "n_pairs": 7,
        "causal": False,
        "promotion": 0.05,
        "n_probes": 1,
        "n_evaluation": 4000,
    }
    curriculum = parallel_curriculum.Config(**settings)
    lengths = parallel_lengths.Config(**settings, most_missing=1)
    assert lengths.stages == curriculum.stages
    (first,) = parallel_curriculum.simulate([(curriculum, 0)], "cpu")
    (second,) = parallel_lengths.simulate([(lengths, 0)], "cpu")
    gap = abs(second["accuracy"].sel(missing=0) - first["accuracy"])
    assert (
        float(gap.max()) < 5 * 0.5 * (2 / 1000) ** 0.5
    )  # five standard errors of a difference of shares of 1000


def test_nothing_is_claimed_of_a_short_training() -> None:
    for module in (parallel_curriculum, parallel_depth):
        outcome = ended(module.__name__.rpartition(".")[2], "smoke")
        assert {claim.check(outcome).verdict for claim in module.CLAIMS} == {"not_measured"}


def test_more_steps_than_asked_for_are_not_learnt_by_themselves() -> None:
    """A hundred steps on one step alone teach it and no second one: the rest of the logits stays at chance or below."""
    recipe = PairCurriculumRecipe(
        **{**SMALL, "final_step": 150, "batch_size": 64, "learning_rate": 5e-3, "check_steps": 1000}
    )
    asked = draw_slots(recipe.problem, 600, torch_generator("test", "curriculum", 1))

    def accuracy(model: Decoder) -> dict[str, np.ndarray]:
        right = token_logits(model, asked.ids[None], recipe.n_tokens)[0].argmax(-1) == asked.labels
        return {
            "accuracy": np.array([[float(right[asked.n_steps == one].double().mean()) for one in (1, 2)]])
        }

    first, second = train_by_stages(recipe, (0,), (150,), accuracy)["accuracy"][0, :, -1]
    assert first > 0.9
    assert second < 0.4


def test_a_generator_of_looks_is_not_that_of_training() -> None:
    """More looks change nothing but when more is asked for."""
    few, many = (
        train_by_stages(
            PairCurriculumRecipe(**{**SMALL, "check_steps": every}, promotion=0.999),
            (2,),
            (20,),
            weights_at_the_end,
        )["unembedding"]
        for every in (2, 20)
    )
    assert torch.equal(torch.from_numpy(few), torch.from_numpy(many))


def test_a_closed_chain_is_a_ring_with_the_same_answers() -> None:
    """Every token that is left stands on both sides; following the pairs from the start comes to the label, and back."""
    problem = Config(n_pairs=7, n_steps=4, n_distractors=0, n_tokens=10).problem
    drawn = draw_slots(problem, 200, torch_generator("test", "rings", 1))
    closed = close_chains(problem, drawn.ids)
    assert torch.equal(closed[:, -1], drawn.ids[:, -1])
    assert ((closed != drawn.ids).sum(1) == 1).all()  # one pair alone is another
    for ids, label, steps in zip(closed.tolist(), drawn.labels.tolist(), drawn.n_steps.tolist(), strict=True):
        follows = {one // 10: one % 10 for one in ids[:-1]}
        assert len(follows) == 7
        assert set(follows) == set(follows.values())
        token = start = ids[-1] % 10
        for step in range(1, 8):
            token = follows[token]
            assert (token == label) == (step == steps)
        assert token == start


def test_only_a_single_chain_can_be_closed() -> None:
    problem = Config(n_pairs=7, n_steps=4, n_distractors=2, n_tokens=12).problem
    drawn = draw_slots(problem, 2, torch_generator("test", "rings", 1))
    with pytest.raises(
        ValueError, match="sentences have pairs of other chains; only a single chain can be closed"
    ):
        close_chains(problem, drawn.ids)


def test_rings_are_asked_as_rings() -> None:
    """A reader that answers with the token on no pair's left finds the end of each chain, and nothing on a ring."""
    config = Config(n_pairs=5, n_steps=1, tail=1, n_distractors=0, n_tokens=8)
    drawn = draw_slots(config.problem, 300, torch_generator("test", "rings", 2))
    asked = drawn.ids[None], drawn.labels[None], drawn.n_steps[None]
    seen: list[torch.Tensor] = []

    class Reader:
        def logits(self, ids: torch.Tensor, last: bool) -> torch.Tensor:  # noqa: ARG002
            seen.append(ids)
            return torch.nn.functional.one_hot(drawn.labels, 8).float()[None, :, None]

    found = parallel_curriculum.right_on_rings(Reader(), config, *asked)  # type: ignore[arg-type]
    assert found.tolist() == [[1.0]]
    assert torch.equal(seen[0][0], close_chains(config.problem, drawn.ids))


@pytest.mark.parametrize("module", [parallel_curriculum, parallel_depth, parallel_lengths])
def test_a_claim_about_steps_that_are_not_asked_is_not_measured(module: Any) -> None:
    """A reader's own preset, of two steps, comes to an end with a note and no error."""
    plan = contract.plan(
        module.__name__.rpartition(".")[2],
        "smoke",
        overrides={"n_steps": 2, "final_step": 1000, "n_probes": 2},
    )
    axes: dict[str, Any] = {"seed": [0, 1], **plan.grid, "steps": [1, 2], "step": [1000]}
    if module is parallel_lengths:
        axes["missing"] = [0, 1, 2]
    values = xr.DataArray(
        np.ones([len(one) for one in axes.values()]), {name: list(one) for name, one in axes.items()}
    )
    read = xr.Dataset({"accuracy": values, "on_rings": values, "longest": values})
    for claim in module.CLAIMS:
        found = claim.check(sims.Outcome(plan, read))
        assert found.verdict == "not_measured"
        assert found.note.startswith("there are no questions about")


def test_lengths_want_a_single_chain() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parallel_lengths.Config(n_pairs=9, n_steps=5, n_distractors=2, n_tokens=13)
    assert str(caught.value) == (
        "n_distractors is 2; it must be 0, as a single chain alone can be closed to a ring."
    )
