"""Stored trainings: made once, found again, gone on from, never half there; and checkpoints that do not fit."""

import dataclasses
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sims
from sims import records, trainings
from sims.checkpoints import load_checkpoint, read, save_checkpoint, write
from sims.source import ROOT, code_digest
from sims.training import DivergedError
from sims.trainings import train_and_keep, trained, trained_stack
from tests.sims.toy_recipe import STEPS_TAKEN, ToyModel, ToyRecipe

pytestmark = pytest.mark.usefixtures("store")
KINDS = (
    ToyRecipe(),
    ToyRecipe(optimiser="sgd", momentum=0.9, learning_rate=0.01),
    ToyRecipe(optimiser="adam", weight_decay=0.0, schedule="linear"),
)


def steps_of(work: Callable[[], Any]) -> int:
    """How many steps were taken meanwhile."""
    before = STEPS_TAKEN[0]
    work()
    return STEPS_TAKEN[0] - before


def files(store: Path) -> list[str]:
    return sorted(one.name for one in store.rglob("*") if one.is_file())


def same(one: ToyModel, other: ToyModel) -> bool:
    return all(torch.equal(one.weights[name], other.weights[name]) for name in ("slope", "frozen"))


def uninterrupted(recipe: ToyRecipe, seeds: tuple[int, ...], step: int) -> ToyModel:
    """Without the store."""
    started = recipe.begin(seeds, "cpu")
    started.training.advance(step)
    return started.model


def test_it_is_public() -> None:
    assert sims.trained is trained


def test_a_training_is_made_once_and_found_again(store: Path) -> None:
    recipe = ToyRecipe()
    assert steps_of(lambda: trained(recipe, 3, 10)) == 10
    assert steps_of(lambda: trained(recipe, 3, 10)) == 0
    found = trained(recipe, 3, 10)
    assert same(found, uninterrupted(recipe, (3,), 10))
    assert found.weights["slope"].shape == (1, 3, 4)
    assert not any(weight.requires_grad for weight in found.weights.values())
    assert files(store) == ["step-00000010.safetensors"]
    # another seed, step or setting is another training
    assert steps_of(lambda: trained(recipe, 4, 10)) == 10
    assert steps_of(lambda: trained(ToyRecipe(learning_rate=0.06), 3, 10)) == 10


def test_the_file_says_what_it_is(store: Path) -> None:
    recipe = ToyRecipe(learning_rate=0.25)
    trained(recipe, 3, 2)
    (path,) = store.rglob("*.safetensors")
    details = read(path).details
    assert path.parts[-4:-2] == ("trained", "toy_recipe")
    assert path.parent.name == details["identity"]
    assert details["identity"] == records.identity("toy_recipe", recipe, 3, details["code_digest"])
    assert details["fields"] == dataclasses.asdict(recipe)
    assert (details["recipe"], details["seed"], details["step"], details["device"]) == (
        "toy_recipe",
        3,
        2,
        "cpu",
    )
    assert details["versions"] == records.versions()


@settings(max_examples=25)
@given(
    recipe=st.sampled_from(KINDS),
    seed=st.integers(0, 10**6),
    stops=st.lists(st.integers(0, 20), min_size=2, max_size=4, unique=True),
)
def test_it_goes_on_from_what_is_stored_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, recipe: ToyRecipe, seed: int, stops: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECALL_AND_REASON_RESULTS", str(tmp_path_factory.mktemp("results")))
        reached: set[int] = set()
        for stop in stops:
            earlier = max((one for one in reached if one <= stop), default=0)
            assert steps_of(lambda stop=stop: trained(recipe, seed, stop)) == stop - earlier
            reached.add(stop)
            assert same(trained(recipe, seed, stop), uninterrupted(recipe, (seed,), stop))


def test_a_stack_is_stored_apart_and_goes_on_from_seeds_trained_apart(store: Path) -> None:
    recipe = ToyRecipe()
    whole = trained_stack(recipe, (5, 6, 7), 12)
    assert len(files(store)) == 3
    assert steps_of(lambda: trained(recipe, 6, 12)) == 0
    assert torch.equal(trained(recipe, 6, 12).weights["slope"][0], whole.weights["slope"][1])
    assert same(whole, uninterrupted(recipe, (5, 6, 7), 12))
    # other company, other order: these seeds have step 12, and the stack goes on from there
    assert steps_of(lambda: trained_stack(recipe, (7, 5), 20)) == 8
    assert same(trained_stack(recipe, (7, 5), 20), uninterrupted(recipe, (7, 5), 20))
    # seed 8 has nothing, so that the whole stack begins again
    assert steps_of(lambda: trained_stack(recipe, (5, 8), 20)) == 20
    # the latest step that both have is 20; seed 5 alone has 25
    trained(recipe, 5, 25)
    assert steps_of(lambda: trained_stack(recipe, (8, 5), 30)) == 10


def test_what_another_device_made_is_read_but_not_gone_on_from(store: Path) -> None:
    recipe = ToyRecipe()
    first = trained(recipe, 1, 6)
    (path,) = store.rglob("*.safetensors")
    stored = read(path)
    path.unlink()
    write(path, stored.weights, stored.state, {**stored.details, "device": "cuda (a model)"})
    assert steps_of(lambda: trained(recipe, 1, 6)) == 0
    assert same(trained(recipe, 1, 6), first)
    assert steps_of(lambda: trained(recipe, 1, 9)) == 9


def test_a_frozen_weight_that_begins_otherwise_is_not_gone_on_from(store: Path) -> None:
    """A state whose other half the recipe no longer makes would continue a model that never was."""
    recipe = ToyRecipe()
    trained(recipe, 1, 6)
    (path,) = store.rglob("*.safetensors")
    stored = read(path)
    write(path, {**stored.weights, "frozen": stored.weights["frozen"] + 1}, stored.state, stored.details)
    assert steps_of(lambda: trained(recipe, 1, 9)) == 9
    assert same(trained(recipe, 1, 9), uninterrupted(recipe, (1,), 9))


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "pickle", "of another seed", "of another step", "no details"]
)
def test_a_corrupt_or_foreign_file_is_set_aside_and_made_again(store: Path, damage: str) -> None:
    recipe = ToyRecipe()
    first = trained(recipe, 1, 6)
    (path,) = store.rglob("*.safetensors")
    if damage == "of another seed":
        trained(recipe, 2, 6)
        (other,) = set(store.rglob("*.safetensors")) - {path}
        path.write_bytes(other.read_bytes())
    elif damage == "of another step":
        trained(recipe, 1, 5)
        path.write_bytes(path.with_name("step-00000005.safetensors").read_bytes())
        path.with_name("step-00000005.safetensors").unlink()
    elif damage == "pickle":
        torch.save({"slope": torch.zeros(1)}, path)
    elif damage == "no details":
        path.unlink()
        save_checkpoint(path, first, {})
    else:
        path.write_bytes(path.read_bytes()[:-40] if damage == "cut" else b"")
    damaged = path.read_bytes()
    assert steps_of(lambda: trained(recipe, 1, 6)) == 6
    assert same(trained(recipe, 1, 6), first)
    (aside,) = path.parent.glob("*.corrupt")
    assert aside.name.startswith("step-00000006.safetensors.")
    assert aside.read_bytes() == damaged


def test_a_corrupt_earlier_step_is_no_start(store: Path) -> None:
    recipe = ToyRecipe()
    trained(recipe, 1, 4)
    trained(recipe, 1, 6)
    (path,) = store.rglob("step-00000006.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert steps_of(lambda: trained(recipe, 1, 9)) == 5
    assert same(trained(recipe, 1, 9), uninterrupted(recipe, (1,), 9))


KILLED = """
import os, signal
from pathlib import Path
from sims import records
from sims.trainings import trained
from tests.sims.toy_recipe import ToyRecipe

trained(ToyRecipe(), 1, 4)
whole = Path.write_bytes

def half(path, content):
    whole(path, content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

Path.write_bytes = half
trained(ToyRecipe(), 1, 8)
"""


def test_one_killed_while_it_writes_leaves_no_half_file(store: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    whole, partial = sorted(files(store), reverse=True)
    assert whole == "step-00000004.safetensors"
    assert partial.endswith(".partial")
    assert steps_of(lambda: trained(ToyRecipe(), 1, 8)) == 4, "the step before is whole and served"
    assert same(trained(ToyRecipe(), 1, 8), uninterrupted(ToyRecipe(), (1,), 8))


def test_train_and_keep_reads_the_probe_and_stores_the_steps(store: Path) -> None:
    recipe = ToyRecipe()

    def probe(model: ToyModel) -> dict[str, np.ndarray]:
        return {
            "slope": model.weights["slope"].numpy(force=True).copy(),
            "grad": np.array(torch.is_grad_enabled()),
        }

    read_at = []
    taken = steps_of(
        lambda: read_at.append(
            train_and_keep(recipe, (1, 2), np.array([0, 3, 3, 10]), probe, keep=(7, 3, 12))
        )
    )
    assert taken == 12
    slopes = read_at[0]["slope"]
    assert slopes.shape == (2, 3, 4, 4)
    assert not read_at[0]["grad"].any()
    for place, step in enumerate((0, 3, 3, 10)):
        expected = uninterrupted(recipe, (1, 2), step).weights["slope"].numpy(force=True)
        np.testing.assert_array_equal(slopes[..., place], expected)
    assert len(files(store)) == 6
    assert steps_of(lambda: [trained(recipe, 2, step) for step in (3, 7, 12)]) == 0
    assert same(trained_stack(recipe, (1, 2), 7), uninterrupted(recipe, (1, 2), 7))
    assert steps_of(lambda: trained(recipe, 1, 14)) == 2


def test_without_steps_to_keep_nothing_is_stored(store: Path) -> None:
    assert train_and_keep(ToyRecipe(), (1,), [2], lambda _: {"one": np.ones(1)})["one"].tolist() == [[1.0]]
    assert train_and_keep(ToyRecipe(), (1,), [], lambda _: {}) == {}
    assert not store.exists()


def test_a_divergence_keeps_what_was_reached(store: Path) -> None:
    recipe = ToyRecipe(breaks_at=7)
    with pytest.raises(DivergedError, match=r"^the loss is not finite at step 7\.$"):
        train_and_keep(recipe, (1,), [10], lambda _: {}, keep=(5, 9))
    assert files(store) == ["step-00000005.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (((), 1), "zero seeds were given; give at least one."),
        (((-1,), 1), "seed is -1; it must be an integer, at least 0."),
        (((1.0,), 1), "seed is 1.0; it must be an integer"),
        (((True,), 1), "seed is True; it must be an integer"),
        (((1,), -2), "step is -2; it must be an integer, at least 0."),
        (((1,), 2.0), "step is 2.0; it must be an integer"),
        (((1,), 41), "step is 41; it must be at most final_step = 40 of toy_recipe."),
        (((1,), 1, "gpu"), "device is 'gpu'; it must be cpu"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(store: Path, arguments: tuple, answer: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(answer)) as told:
        trained_stack(ToyRecipe(), *arguments)
    assert str(told.value).count(". ") == 0
    seeds, step, *device = arguments
    with pytest.raises(ValueError, match="^" + re.escape(answer)):
        train_and_keep(ToyRecipe(), seeds, [0], lambda _: {}, [step], *device)
    assert not store.exists()


def test_probe_steps_that_run_backwards_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^probe_steps are \[3, 1\]; they must be sorted\.$"):
        train_and_keep(ToyRecipe(), (1,), [3, 1], lambda _: {})


def test_recipes_that_cannot_be_told_apart_are_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Inner(ToyRecipe):
        pass

    @dataclasses.dataclass(frozen=True)
    class Named(ToyRecipe):
        NAME: ClassVar[str] = "../up"

    with pytest.raises(ValueError, match=r"Inner must be a class at the top level of a \.py file\."):
        trained(Inner(), 1, 1)
    with pytest.raises(ValueError, match=r"NAME of Named is '\.\./up'; it must be of a–z, 0–9 and _\."):
        trained(Named(), 1, 1)
    with pytest.raises(ValueError, match="must be a frozen dataclass"):
        trained(object(), 1, 1)


def test_an_unwritable_store_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RECALL_AND_REASON_RESULTS", str(tmp_path / "file"))
    before = STEPS_TAKEN[0]
    for ask in (
        lambda: trained(ToyRecipe(), 1, 5),
        lambda: train_and_keep(ToyRecipe(), (1,), [5], lambda _: {}, [5]),
    ):
        with pytest.raises(OSError, match=r"^results folder .* cannot be written"):
            ask()
    assert STEPS_TAKEN[0] == before


def test_the_code_digest_is_of_what_the_recipe_reaches(tmp_path: Path) -> None:
    text = Path(__file__).with_name("toy_recipe.py").read_text()

    def digest(content: str) -> str:
        path = tmp_path / "recipe.py"
        path.write_text(content)
        return code_digest(path, entry_points=("ToyRecipe",))

    plain = digest(text)
    assert digest(text.replace("Settings of one training", "Other words") + "\nUNUSED = 1\n") == plain
    assert digest(text.replace("randn(5, 4", "randn(6, 4")) != plain
    assert digest(text.replace("does not fit", "fits not")) != plain, "the model is reached too"
    assert trainings._code_digest(ToyRecipe) == code_digest(
        Path(__file__).with_name("toy_recipe.py"), entry_points=("ToyRecipe",)
    )


def model(seeds: int = 2) -> ToyModel:
    return ToyModel({"slope": torch.randn(seeds, 3, 4), "frozen": torch.zeros(seeds, 4)})


def test_a_checkpoint_comes_back_as_it_went(tmp_path: Path) -> None:
    one, path = model(), tmp_path / "deep" / "one.safetensors"
    one.weights["slope"] = torch.randn(2, 4, 3).mT  # not contiguous
    one.weights["frozen"].requires_grad_()
    save_checkpoint(path, one, {"made by": ["a test", 1]})
    assert same(load_checkpoint(path, model()), one)
    assert same(load_checkpoint(str(path), model()), one)
    assert read(path).details == {"made by": ["a test", 1]}
    assert [each.name for each in path.parent.iterdir()] == ["one.safetensors"]


def test_two_weights_that_share_memory_are_both_kept(tmp_path: Path) -> None:
    tied = torch.randn(1, 3, 4)
    save_checkpoint(tmp_path / "one.safetensors", ToyModel({"slope": tied, "frozen": tied[:, 0]}), {})
    found = load_checkpoint(tmp_path / "one.safetensors", model(1))
    assert torch.equal(found.weights["frozen"], tied[:, 0])


def test_a_file_of_the_store_is_a_checkpoint(store: Path) -> None:
    first = trained(ToyRecipe(), 1, 3)
    (path,) = store.rglob("*.safetensors")
    assert same(load_checkpoint(path, model(1)), first)


def test_a_header_that_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """A header of 640 bytes makes the first two bytes those of pickle protocol 2; the content decides."""
    one, path = model(), tmp_path / "one.bin"
    for length in range(300, 640):
        save_checkpoint(path, one, {"note": "x" * length})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert same(load_checkpoint(path, model()), one)


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["torch.save", "old torch.save", "pickle", "named .pt"])
def test_pickle_files_are_refused_unread(tmp_path: Path, kind: str) -> None:
    trap = Trap(tmp_path / "trapped")
    path = tmp_path / {"torch.save": "one.safetensors", "named .pt": "one.pt"}.get(kind, "one.weights")
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"slope": trap}))
    elif kind == "named .pt":
        path.write_bytes(b"(dp0\n.")  # protocol 0 begins like any text
    else:
        torch.save({"slope": trap}, path, _use_new_zipfile_serialization=kind == "torch.save")
    with pytest.raises(
        ValueError, match=r"^checkpoint .*one\.\w+ is a pickle file; only safetensors are loaded, as "
    ):
        load_checkpoint(path, model())
    assert not trap.path.exists()


def test_files_that_are_no_checkpoints_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    with pytest.raises(
        FileNotFoundError, match=r"^checkpoint .*one\.safetensors does not exist; it must be a saf"
    ):
        load_checkpoint(path, model())
    save_checkpoint(path, model(), {})
    whole = path.read_bytes()
    for content in (b"", b"some text, long enough", whole[:-1], whole[:30], whole + b"x"):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"^checkpoint .*one\.safetensors is corrupt, or not a safetensors file"
        ):
            load_checkpoint(path, model())


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        ({"slope": torch.ones(2, 5, 4)},
         "slope is torch.float32 of shape (2, 5, 4); it must be torch.float32 of shape (2, 3, 4)."),
        ({"slope": torch.zeros(1, 3, 4), "frozen": torch.zeros(1, 4)}, "slope is torch.float32 of shape (1, 3, 4); it must"),
        ({"slope": torch.zeros(2, 3, 4, dtype=torch.float64)},
         "slope is torch.float64 of shape (2, 3, 4); it must be torch.float32"),
        ({"frozen": None}, "frozen is absent; it must be torch.float32 of shape (2, 4)."),
        ({"third": torch.zeros(2)}, "third is torch.float32 of shape (2,); it must be absent."),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_configuration_is_one_sentence(
    tmp_path: Path, changed: dict[str, torch.Tensor | None], answer: str
) -> None:
    path = tmp_path / "one.safetensors"
    weights = {name: one for name, one in {**model().weights, **changed}.items() if one is not None}
    save_checkpoint(path, ToyModel(weights), {})
    with pytest.raises(
        ValueError, match="one.safetensors is of another configuration: weight " + re.escape(answer)
    ):
        load_checkpoint(path, model())


def test_what_a_checkpoint_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    with pytest.raises(ValueError, match=r"^details of checkpoint one\.safetensors are not plain data"):
        save_checkpoint(path, model(), {"a": object()})
    with pytest.raises(
        ValueError, match=r"^weight is 'training\.x'; its name must not begin with 'training\.'\.$"
    ):
        save_checkpoint(path, ToyModel({"training.x": torch.zeros(1)}), {})
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "one.safetensors", model(), {})
    assert json.dumps(files(tmp_path)) == '["file"]'


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_goes_on_from_its_own_states(store: Path) -> None:
    recipe = ToyRecipe()
    whole = trained_stack(recipe, (1, 2), 20, "cuda")
    for path in store.rglob("*.safetensors"):
        path.unlink()
    trained_stack(recipe, (1, 2), 8, "cuda")
    assert steps_of(lambda: trained_stack(recipe, (1, 2), 20, "cuda")) == 12
    found = trained_stack(recipe, (1, 2), 20, "cuda")
    # the same kernels in the same order; matrix products of this size use no atomic sums
    assert same(found, whole)
    assert steps_of(lambda: trained(recipe, 1, 20)) == 0, "read on the CPU too"
    assert trained(recipe, 1, 20).weights["slope"].device.type == "cpu"


def test_fields_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^field learning_rate is '0.1'; it must be a number\.$"):
        trained(dataclasses.replace(ToyRecipe(), learning_rate="0.1"), 0, 1)  # type: ignore[arg-type]
