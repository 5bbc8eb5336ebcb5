"""A training kept and continued: bit for bit as if it had never stopped, whole or seed by seed."""

import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from sims.training import Training, make_learning_rate_schedule, make_optimiser

KINDS = ("sgd", "momentum", "adam", "adamw")
SEEDS = (11, 12, 13)


def begun(kind: str, seeds: tuple[int, ...] = SEEDS) -> tuple[list[torch.Tensor], Training]:
    """Two stacked parameters, one of them not contiguous, with fresh noise at every step; a third that no loss reads."""
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = torch.stack([torch.randn(4, 2, generator=one) for one in draws]).mT.requires_grad_()
    y = torch.stack([torch.randn(2, generator=one) for one in draws]).requires_grad_()
    unread = torch.ones(len(seeds), 1, requires_grad=True)

    def loss() -> torch.Tensor:
        noise = torch.stack([torch.randn(5, 4, generator=one) for one in draws])
        return (noise @ x.mT - y[:, None]).square().sum()

    settings_of = {"sgd": ("sgd", 0.01, 0.0, 0.1), "momentum": ("sgd", 0.01, 0.9, 0.1),
                   "adam": ("adam", 0.05, 0.0, 0.0), "adamw": ("adamw", 0.05, 0.0, 0.1)}  # fmt: skip
    name, rate, momentum, decay = settings_of[kind]
    groups = [{"params": [x], "lr": rate}, {"params": [y, unread], "lr": rate / 2}]
    made = make_optimiser(groups, name, rate, momentum, decay)
    return [x, y, unread], Training(
        made, loss, schedule=make_learning_rate_schedule("cosine", 40, 5), generators=draws
    )


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[key], others[key]) for key in some)


def through_a_file(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return load(save(state))


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS), split=st.integers(0, 30), further=st.integers(0, 10), busy=st.integers(0, 5)
)
def test_continued_equals_uninterrupted_bit_for_bit(kind: str, split: int, further: int, busy: int) -> None:
    """Also when the training that is put back has taken `busy` steps of its own."""
    _, whole = begun(kind)
    whole.advance(split + further)
    _, first = begun(kind)
    first.advance(split)
    state = through_a_file(first.state())
    first.advance(split + 3)  # what was kept does not move with the training
    _, second = begun(kind)
    second.advance(busy)
    second.restore(state)
    assert second.step == split
    assert same(second.state(), state)
    second.advance(split + further)
    assert same(second.state(), whole.state())


@settings(max_examples=60)
@given(kind=st.sampled_from(KINDS), split=st.integers(0, 20), order=st.permutations(range(3)))
def test_stacked_seeds_are_kept_apart_and_put_together(kind: str, split: int, order: list[int]) -> None:
    _, stack = begun(kind)
    stack.advance(split)
    apart = [through_a_file(stack.state(place)) for place in range(3)]
    _, again = begun(kind)
    again.restore(*apart)
    assert same(again.state(), stack.state())
    _, other = begun(kind, tuple(SEEDS[place] for place in order))
    other.restore(*(apart[place] for place in order))
    stack.advance(split + 5)
    again.advance(split + 5)
    other.advance(split + 5)
    assert same(again.state(), stack.state())
    assert all(same(other.state(at), stack.state(place)) for at, place in enumerate(order))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_of_a_stack_is_in_the_form_of_one_alone(kind: str) -> None:
    """And goes on alone; these sizes round equally in a stack and alone."""
    _, stack = begun(kind)
    stack.advance(7)
    _, alone = begun(kind, SEEDS[1:2])
    alone.restore(stack.state(1))
    alone.advance(12)
    _, whole = begun(kind, SEEDS[1:2])
    whole.advance(12)
    assert same(alone.state(), whole.state())
    assert {key: value.shape for key, value in stack.state(1).items()} == {
        key: value.shape for key, value in whole.state().items()
    }


def test_the_parameters_stay_the_tensors_they_were() -> None:
    (x, _, _), training = begun("adam")
    before, strides = x.data_ptr(), x.stride()
    state = training.state()
    training.advance(3)
    training.restore(state)
    assert (x.data_ptr(), x.stride()) == (before, strides)
    assert x.requires_grad


def test_the_keys_are_flat_names_of_tensors() -> None:
    _, training = begun("momentum", (1,))
    assert list(training.state()) == [
        "step", "parameter.0", "momentum_buffer.0", "parameter.1", "momentum_buffer.1", "parameter.2",
        "momentum_buffer.2", "generator.0",
    ]  # fmt: skip
    _, training = begun("adamw", (1,))
    assert {key.partition(".")[0] for key in training.state()} == {
        "step", "parameter", "exp_avg", "exp_avg_sq", "generator",
    }  # fmt: skip


State = dict[str, torch.Tensor]
MISFITS: dict[str, tuple[Callable[[list[State]], list[State]], str]] = {
    "missing": (lambda s: [{k: v for k, v in s[0].items() if k != "exp_avg.1"}], "state lacks exp_avg.1, so that it is"),
    "further": (lambda s: [{**s[0], "momentum_buffer.0": s[0]["step"]}], "state has momentum_buffer.0, so that it is"),
    "shape": (lambda s: [{**s[0], "parameter.1": torch.zeros(3, 3)}],
              "parameter.1 of the state is torch.float32 of shape (3, 3); it must be torch.float32 of shape (3, 2)."),
    "dtype": (lambda s: [{**s[0], "exp_avg.1": s[0]["exp_avg.1"].double()}],
              "exp_avg.1 of the state is torch.float64 of shape (3, 2); it must be torch.float32"),
    "generator": (lambda s: [{**s[0], "generator.2": torch.zeros(16, dtype=torch.uint8)}],
                  "generator.2 of the state is torch.uint8 of shape (16,); it must be torch.uint8 of shape (5056,)."),
    "none": (lambda _: [], "number of states is 0; it must be 1, or 3, one a stacked seed."),
    "too few": (lambda s: s[1:3], "number of states is 2; it must be 1, or 3, one a stacked seed."),
    "one of three": (lambda s: s[1:2], "state lacks generator.1, so that it is of another training."),
    "steps": (lambda s: [*s[1:3], {**s[3], "step": torch.tensor(9)}],
              "step is 9 and 6 in states of one stack; it must be the same."),
    "last seed": (lambda s: [*s[1:3], {**s[3], "exp_avg.0": torch.zeros(1, 2, 5)}], "exp_avg.0 of the state is"),
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_state_that_does_not_fit_is_one_sentence_and_changes_nothing(misfit: str) -> None:
    change, answer = MISFITS[misfit]
    _, kept = begun("adam")
    kept.advance(6)
    _, training = begun("adam")
    training.advance(4)
    before = training.state()
    states = change([kept.state(), *(kept.state(place) for place in range(3))])
    with pytest.raises(ValueError, match="^" + re.escape(answer)):
        training.restore(*states)
    assert training.step == 4
    assert same(training.state(), before)
    _, whole = begun("adam")
    whole.advance(8)
    training.advance(8)
    assert same(training.state(), whole.state())


def test_a_state_of_another_optimiser_does_not_fit() -> None:
    for kind, other in (("sgd", "momentum"), ("momentum", "adam"), ("adam", "sgd")):
        with pytest.raises(
            ValueError, match=r"^state (has|lacks) \w+\.0, so that it is of another training\.$"
        ):
            begun(kind)[1].restore(begun(other)[1].state())


@pytest.mark.parametrize("place", [-1, 3])
def test_a_place_beyond_the_stack_is_refused(place: int) -> None:
    with pytest.raises(ValueError, match=rf"^place is {place}; it must be from 0 to below 3, the number of"):
        begun("adam")[1].state(place)


@pytest.mark.parametrize(("shapes", "n_generators"), [([(2, 3), (3, 2)], 0), ([()], 0), ([(2, 3)], 1)])
def test_without_an_axis_of_seeds_the_whole_alone_is_kept(shapes: list[tuple], n_generators: int) -> None:
    tensors = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    draws = [torch.Generator() for _ in range(n_generators)]
    made = make_optimiser(tensors, "sgd", 0.1)
    training = Training(made, lambda: torch.stack([one.sum() for one in tensors]).sum(), generators=draws)
    training.advance(2)
    state = training.state()
    training.advance(3)
    training.restore(state)
    assert same(training.state(), state)
    with pytest.raises(ValueError, match=r"^place is 0; it must be from 0 to below 0, the number"):
        training.state(0)


def test_an_optimiser_of_another_kind_is_refused() -> None:
    x = torch.zeros(1, requires_grad=True)
    with pytest.raises(
        ValueError, match=r"^optimiser is RMSprop; it must be SGD, Adam or AdamW to be kept\.$"
    ):
        Training(torch.optim.RMSprop([x]), lambda: x.sum()).state()
