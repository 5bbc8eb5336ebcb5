"""The experiments on language models: a folder is asked as our own model is, a changed folder is another one, cuts are what they
say and leave the model as it was, a cut is chosen on one half of prompts and told on the other, bad input is one sentence."""

import dataclasses
import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file

import sims
from sims import contract, pool
from sims.__main__ import main
from sims.experiments import _language_models, pythia_over_training, pythia_truncation
from sims.experiments._language_models import (
    HALVES,
    KINDS,
    OWN,
    READINGS,
    AskedModel,
    Subject,
    folder_fingerprint,
)
from sims.experiments._readings import cut_chosen, is_late
from sims.experiments.pythia_truncation import CHANGES, CUTS, cut
from sims.interventions.in_place import Decompositions
from sims.models.language_folder import library
from sims.models.language_model import load_language_model, matrix
from sims.recipes import story_model
from sims.recipes.story_model import SMOKE, StoryRecipe, story_model_folder
from sims.tasks.prompts import halves, indirect_object_prompts
from sims.tasks.prose import PROSE, paragraphs
from tests.sims.tiny_language_models import fingerprint, tiny

pytest.importorskip("transformers", reason="pretrained models need the extra 'pretrained'")
pytestmark = pytest.mark.usefixtures("store")

TINY: dict[str, Any] = {
    "width": 16, "n_layers": 2, "n_heads": 2, "feed_forward_width": 24, "batch_size": 2, "warmup_steps": 0,
    "final_step": 2, "checkpoints_per_doubling": 1,
}  # fmt: skip
WHOLE = StoryRecipe(n_names=64, indirect_object_share=0.4, **TINY)
"""A recipe whose words are the whole table, and whose texts are those that any other model is asked."""
FEW_WORDS = dataclasses.replace(SMOKE, **{**TINY, "final_step": 1})
SMALL: dict[str, Any] = {"n_indirect_object": 24, "n_fact": 16, "texts": "stories", "n_texts": 4}
TABLE: dict[str, Any] = {**SMALL, "fractions": (0.0, 0.5, 1.0), "cut_roles": ("query", "feed_forward_out")}
ROUNDING = 1e-12
"""float64 SVD and product of matrices of norm below 10: a few hundred roundings of 1.1e-16."""
FLOAT32 = 1e-5
"""Probabilities of a float32 model whose products are made in another order."""


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more model of our own."""
    monkeypatch.setitem(OWN, "story-whole", WHOLE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The last checkpoint of that model, as a user has it on disk, and all of them as folders in it."""
    place = tmp_path / "mine"
    shutil.copytree(story_model_folder(WHOLE, 0, 2), place)
    for step in WHOLE.checkpoint_steps:
        shutil.copytree(story_model_folder(WHOLE, 0, step), place / f"step{step}")
    return place


def words(name: str, **settings: Any) -> list[str]:
    """A command line."""
    found = ["run", name, "--scale", "smoke"]
    for key, value in settings.items():
        found += ["--set", f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"]
    return found


def run(name: str, **settings: Any) -> sims.Outcome:
    return sims.run(name, "smoke", progress=False, **settings)


def shift(folder: Path) -> None:
    """Other weights, in files of the same names and sizes."""
    path = folder / "model.safetensors"
    size = path.stat().st_size
    weights = {
        name: one + 0.5 * torch.cos(torch.arange(one.numel())).view_as(one)
        for name, one in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})
    assert path.stat().st_size == size


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which the command line refuses, with status 2 and nothing else said."""
    capfd.readouterr()
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("python -m sims: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("python -m sims: error: ").rstrip("\n")


# A folder is asked as our own model is


def test_a_folder_gives_the_numbers_of_our_own_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both from the command line; the same seed, step and prompts: every number is equal, bit for bit."""
    table = {**TABLE, "cut_layers": (1,)}
    found = []
    for model, revision in (
        ("story-whole", "main"),
        (folder, "main"),
        (folder, "step1"),
        ("story-whole", "step1"),
    ):
        assert main(words("pythia-truncation", model=model, revision=revision, **table)) == 0
        assert "1 runs made, 0 from the store" in capsys.readouterr().out
        stored = run("pythia_truncation", model=str(model), revision=revision, **table)
        assert stored.provenance["n_computed"] == 0
        found.append(stored.measured)
    assert found[0].identical(found[1])
    assert found[2].identical(found[3])
    assert abs(found[0]["whole"] - found[2]["whole"]).max() > 1e-4


def test_checkpoints_in_a_folder_give_the_numbers_of_our_own(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words("pythia-over-training", model=folder, steps=(0, 1, 2), **SMALL)) == 0
    theirs, ours = (
        run("pythia_over_training", model=model, steps=(0, 1, 2), **SMALL).measured
        for model in (str(folder), "story-whole")
    )
    assert theirs.identical(ours)
    assert theirs["same_as"].values.tolist() == [[0, 1, 2]]
    told = refused(words("pythia-over-training", model=folder, steps=(0, 4), **SMALL), capfd)
    assert told == f"revision is 'step4'; the folder {folder} has main, step0, step1, step2."
    shutil.copy(
        folder / "step2/model.safetensors", folder / "step0"
    )  # a branch that holds the last weights, before a good one
    again = run("pythia_over_training", model=str(folder), steps=(0, 1, 2), **SMALL)
    assert again.measured["same_as"].values.tolist() == [[2, 1, 2]]
    (first,) = (claim for claim in pythia_over_training.CLAIMS if claim.id == "P1")
    assert first.check(again).note.endswith("checkpoints with the same weights: 0 = 2")


def test_a_tokenizer_without_the_words_is_refused_in_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    """Our smoke model knows 8 names; as a folder it is asked in the whole table, as any other."""
    place = story_model_folder(FEW_WORDS, 0, 1)
    for name, more in (("pythia-truncation", TABLE), ("pythia-over-training", {**SMALL, "steps": (1,)})):
        if name == "pythia-over-training":
            shutil.copytree(place, place / "step1")
        told = refused(words(name, model=place, **more), capfd)
        assert re.fullmatch(
            r"word ' \w+' is 1 tokens, or unknown; it must be a single token of the tokenizer\.", told
        )


def test_names_may_have_hyphens(capsys: pytest.CaptureFixture[str]) -> None:
    assert contract.experiment("pythia-truncation") is contract.experiment("pythia_truncation")
    assert contract.experiment("pythia-over-training").reference == "pythia_over_training"
    assert main(["run", "pythia-over-training", "--scale", "smoke", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("pythia_over_training at smoke scale: 1 runs")
    assert main(["claims", "pythia-truncation"]) == 0
    assert "P2" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"^experiment is 'pythia-ablation'; it must be one of: "):
        contract.experiment("pythia-ablation")


# Which texts


def test_others_read_prose_our_own_models_stories_and_all_of_them_a_file(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only the perplexity depends on the texts; a changed file is another run."""
    file = tmp_path / "mine.txt"
    text = "\n\n".join(paragraphs(PROSE)[:2])
    file.write_text(text.replace(" ", "\n", 3), encoding="utf-8")  # line breaks in a paragraph do not count
    settings = {**SMALL, "n_texts": 2, "steps": (2,)}
    found = {
        (model, texts): run("pythia_over_training", **{**settings, "model": model, "texts": texts})
        for model in (str(folder), "story-whole")
        for texts in ("", "stories", "prose", str(file))
    }
    losses = {key: one.measured["perplexity"].item() for key, one in found.items()}
    prose = losses["story-whole", "prose"]
    assert prose == losses["story-whole", str(file)] == losses[str(folder), str(file)]
    assert prose == losses[str(folder), ""] == losses[str(folder), "prose"]
    assert losses["story-whole", ""] == losses[str(folder), "stories"] != losses[str(folder), ""]
    values = [one.measured["value"] for one in found.values()]
    assert all(one.identical(values[0]) for one in values)

    again = partial(run, "pythia_over_training", **{**settings, "model": "story-whole", "texts": str(file)})
    assert again().provenance["n_computed"] == 0
    file.write_text(text[: len(text) // 2], encoding="utf-8")
    assert again().provenance["n_computed"] == 1

    for content, answer in (
        (None, "it cannot be read (FileNotFoundError)."),
        (b"\xff\xfe", "it must be a text file in UTF-8."),
        (b" \n\n \n", "the file must have at least one paragraph."),
    ):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        told = refused(words("pythia-truncation", model="story-whole", texts=file), capfd)
        assert told == f"texts is '{file}'; {answer}"


# Which folder


def test_other_weights_are_another_model(folder: Path) -> None:
    settings = {"model": str(folder), **TABLE, "cut_roles": ("query",)}
    first, again = (run("pythia_truncation", **settings) for _ in range(2))
    assert (first.provenance["n_computed"], again.provenance["n_computed"]) == (1, 0)
    shift(folder)
    other = run("pythia_truncation", **settings)
    assert other.provenance["n_computed"] == 1
    assert not np.allclose(other.measured["whole"], first.measured["whole"], rtol=0, atol=1e-4)


def test_each_run_has_the_fingerprint_of_the_folders_that_it_reads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along an axis too, where one config is made from another; and of the checkpoints, not of the folder that they lie in."""

    def table() -> list[str]:
        axes = {"revision": ("main", "step1")}
        plan = contract.plan("pythia_truncation", "smoke", overrides={"model": str(folder), **axes})
        return [one.fingerprint for one in plan.configs]

    def over_training() -> str:
        overrides = {"model": str(folder), "steps": (0, 1)}
        (config,) = contract.plan("pythia_over_training", "smoke", overrides=overrides).configs
        return config.fingerprint

    tables, trainings = [table()], [over_training()]
    for changed in ("step1", "step2", "."):
        shift(folder / changed)
        tables.append(table())
        trainings.append(over_training())
    main_ones, first_ones = zip(*tables, strict=True)
    assert main_ones[0] == main_ones[1] == main_ones[2] != main_ones[3]
    assert first_ones[0] != first_ones[1] == first_ones[2] == first_ones[3]
    assert trainings[0] != trainings[1] == trainings[2] == trainings[3]
    assert len({*main_ones, *first_ones, *trainings}) == 6

    config = AskedModel(model=str(folder), texts="stories")
    assert dataclasses.replace(config).fingerprint == config.fingerprint != ""
    for none in ("story", "us/tiny"):
        assert dataclasses.replace(config, model=none).fingerprint == ""
    shutil.copytree(folder, tmp_path / "copy")
    assert folder_fingerprint(str(tmp_path / "copy")) != config.fingerprint
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_fingerprint("~/mine") == config.fingerprint
    vocabulary = folder / "merges.txt"
    vocabulary.touch()
    assert folder_fingerprint(str(folder)) != config.fingerprint


# Bad input


@pytest.mark.parametrize("workers", [1, 2])
def test_without_a_hub_it_says_what_to_download(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process, and where worker processes make the runs, which read the environment."""
    one_process = partial(ProcessPoolExecutor, 1)  # one is enough, and starting one takes seconds
    monkeypatch.setattr(pool, "ProcessPoolExecutor", lambda _, **more: one_process(**more))
    constants = library("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name, value in (("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", tmp_path / "cache")):
        monkeypatch.setenv(name, str(value))
    settings = {"model": "EleutherAI/pythia-1b", "revision": "step143000"}
    arguments = [*words("pythia-truncation", **settings), "--seeds", str(workers), "--workers", str(workers)]
    told = refused(arguments, capfd)
    assert re.fullmatch(
        r"model is 'EleutherAI/pythia-1b' at revision 'step143000'; it is not on this machine and the hub cannot be reached "
        r"\(\w+\), so download it where there is a network \(hf download EleutherAI/pythia-1b --revision step143000 .*"
        r"--local-dir FOLDER\), copy FOLDER here and set model to its path\.",
        told,
    )
    if workers == 1:
        told = refused(words("pythia-over-training", model="EleutherAI/pythia-1b", steps=(512,)), capfd)
        assert "at revision 'step512'; it is not on this machine" in told


STEPS = "main or one of step0, step1, step2"
BAD = [
    ("pythia-truncation", {"fractions": (0.5, 1.5)}, "fractions is (0.5, 1.5); it must hold numbers from 0 to 1."),
    ("pythia-truncation", {"fractions": (-0.1,)}, "fractions is (-0.1,); it must hold numbers from 0 to 1."),
    ("pythia-truncation", {"fractions": ("nan",)}, "fractions is (nan,); it must hold numbers from 0 to 1."),
    ("pythia-truncation", {"fractions": ()}, "fractions is (); it must hold numbers from 0 to 1."),
    ("pythia-truncation", {"fractions": ("half",)}, "field fractions is 'half'; it must be a number."),
    ("pythia-truncation", {"cut_roles": ("query", "mlp")}, "cut_roles has 'mlp'; it must hold some of query, key, value, "
     "attention_output, feed_forward_in, feed_forward_out."),
    ("pythia-truncation", {"cut_roles": ("embedding",)}, "cut_roles has 'embedding'; it must hold some of query, key, value, "
     "attention_output, feed_forward_in, feed_forward_out."),
    ("pythia-truncation", {"cut_layers": (1, 2)}, "cut_layers has 2; of this model it must hold integers from 0 to 1."),
    ("pythia-truncation", {"cut_layers": (-1,)}, "cut_layers is (-1,); it must hold integers from 0 on."),
    ("pythia-truncation", {"revision": "step3"}, f"revision is 'step3'; of model story-whole it must be {STEPS}."),
    ("pythia-truncation", {"revision": "2"}, f"revision is '2'; of model story-whole it must be {STEPS}."),
    ("pythia-truncation", {"revision": "step"}, f"revision is 'step'; of model story-whole it must be {STEPS}."),
    ("pythia-truncation", {"dtype": "float8"}, "field dtype is 'float8'; it must be one of float32, float16, bfloat16, float64."),
    ("pythia-truncation", {"precision": "float16"}, "precision is 'float16'; it must be float64 or float32."),
    ("pythia-truncation", {"n_texts": 0}, "n_texts is 0; it must be at least 1."),
    ("pythia-truncation", {"batch_size": 0}, "batch_size is 0; it must be at least 1."),
    ("pythia-truncation", {"n_fact": 1}, "n_fact is 1; it must be at least 2."),
    ("pythia-truncation", {"n_indirect_object": 12},
     "n_indirect_object is 12; no prompt is left to report, so it must be larger."),
    ("pythia-over-training", {"steps": (1, 4)}, f"revision is 'step4'; of model story-whole it must be {STEPS}."),
    ("pythia-over-training", {"steps": (2, 1)}, "steps is (2, 1); it must hold different integers from 0 on, in their order."),
    ("pythia-over-training", {"steps": (-1, 1)}, "steps is (-1, 1); it must hold different integers from 0 on, in their order."),
    ("pythia-over-training", {"steps": (1,), "revision": "step2"},
     "revision is 'step2'; it must be main, as steps names the checkpoints."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "answer"), BAD, ids=[f"{one[0]}-{one[1]}" for one in BAD])
def test_bad_fields_are_refused_before_anything_is_trained(
    name: str,
    settings: dict[str, Any],
    answer: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def no_training(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was trained")

    monkeypatch.setattr(story_model, "train_story_model", no_training)
    assert refused(words(name, model="story-whole", **settings), capfd) == answer


def test_a_folder_s_own_limits(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What only the folder can tell."""
    for settings, answer in (
        (
            {"model": folder, "cut_layers": (2,)},
            "cut_layers has 2; of this model it must hold integers from 0 to 1.",
        ),
        (
            {"model": folder, "revision": "step3"},
            f"revision is 'step3'; the folder {folder} has main, step0, step1, step2.",
        ),
        ({"model": tmp_path / "none"}, f"model is '{tmp_path / 'none'}'; there is no such folder."),
    ):
        assert refused(words("pythia-truncation", **{**TABLE, **settings}), capfd) == answer
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "has pytorch_model.bin, and only safetensors are read" in refused(
        words("pythia-truncation", model=folder), capfd
    )


# What a cut is, and what is left of it


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2"])
def test_a_cut_is_that_of_an_independent_decomposition(family: str) -> None:
    """Kept, and removed, components are complements: both cuts of one fraction add up to the matrix."""
    model = tiny(family)
    marks, known = fingerprint(model), Decompositions(model)
    for place in model.roles.places(layers=(0, 1)):
        whole = matrix(model, place).clone()
        left, values, right = np.linalg.svd(whole.numpy(), full_matrices=False)
        for fraction in (0.0, 0.1, 0.3, 0.5, 1.0):
            count = int(Fraction(str(fraction)) * min(whole.shape))
            found = []
            for kind, kept in zip(CUTS, (slice(0, count), slice(count, None)), strict=True):
                with cut(model, place, kind, fraction, known):
                    found.append(matrix(model, place).clone())
                expected = (left[:, kept] * values[kept]) @ right[kept]
                np.testing.assert_allclose(found[-1].numpy(), expected, rtol=0, atol=ROUNDING)
            torch.testing.assert_close(found[0] + found[1], whole, rtol=0, atol=ROUNDING)
            if fraction in (0, 1):
                untouched, nothing = found[::-1] if fraction == 0 else found
                assert torch.equal(untouched, whole)
                assert not nothing.any()
    assert fingerprint(model) == marks


def test_a_table_leaves_model_and_folder_as_they_were(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit; and its entries at the ends of the rank axis are those of the whole model, and of a zero matrix."""
    seen: list[tuple[Subject, dict[str, str]]] = []

    def watched(*arguments: Any) -> Subject:
        made = _language_models.subject(*arguments)
        seen.append((made, fingerprint(made.model)))
        return made

    monkeypatch.setattr(pythia_truncation, "subject", watched)
    config = pythia_truncation.Config(model=str(folder), **TABLE)
    on_disk = {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    (found,) = pythia_truncation.simulate([(config, 0)], "cpu")
    ((asked, marks),) = seen
    assert fingerprint(asked.model) == marks
    assert not asked.model.changed
    np.testing.assert_array_equal(_language_models.readings_table(asked.ask()), found["whole"])
    assert {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()} == on_disk

    assert found["place"].values.tolist() == [
        f"{role} {layer}" for layer in (0, 1) for role in ("query", "feed_forward_out")
    ]
    assert found["is_late"].values.tolist() == [0, 0, 1, 1]
    whole = found["whole"].astype(np.float32)
    for kind, fraction in zip(CUTS, (1.0, 0.0), strict=True):
        end = found.sel(cut=kind, fraction=fraction)
        assert bool((end["value"] == whole).all())
        assert bool((end["perplexity"] == found["whole_perplexity"].astype(np.float32)).all())
        assert not end["error"].any()
    ends = [found.sel(cut=kind, fraction=one) for kind, one in zip(CUTS, (0.0, 1.0), strict=True)]
    np.testing.assert_allclose(ends[0]["value"], ends[1]["value"], rtol=0, atol=FLOAT32)
    assert (abs(ends[0]["value"] - whole).max(("kind", "half", "reading")) > 1e-6).all()


def test_an_entry_of_the_table_is_that_of_a_model_cut_by_hand(folder: Path, tmp_path: Path) -> None:
    """NumPy cuts the weights in a file; the library reads it and is asked prompt by prompt, without padding."""
    path = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"
    weights = load_file(folder / "model.safetensors")
    left, values, right = np.linalg.svd(weights[path].double().numpy(), full_matrices=False)
    kept = slice(0, 8)  # half of the width, which is the rank
    weights[path] = torch.from_numpy((left[:, kept] * values[kept]) @ right[kept]).float().contiguous()
    shutil.copytree(folder, tmp_path / "cut")
    save_file(weights, tmp_path / "cut/model.safetensors", metadata={"format": "pt"})

    table = run("pythia_truncation", model=str(folder), **TABLE).measured.isel(seed=0)
    entry = table.sel(place="feed_forward_out 1", cut=CUTS[0], fraction=0.5)
    by_hand = [load_language_model(str(one)) for one in (tmp_path / "cut", folder)]
    prompts = dict(zip(HALVES, halves(indirect_object_prompts(24, 0)), strict=True))
    for half, group in prompts.items():
        rows = []
        for model in by_hand:
            logits = [
                model.network(torch.tensor([model.tokenizer.encode(one.text)])).logits[0, -1].softmax(-1)
                for one in group
            ]
            rows.append(
                [
                    [
                        float(one[model.tokenizer.encode(word)[0]])
                        for one, word in zip(logits, column, strict=True)
                    ]
                    for column in ([one.answer for one in group], [one.generic for one in group])
                ]
            )
        after, before = np.array(rows)
        for reading, one, other in zip(CHANGES, after, before, strict=True):
            here = entry["value"].sel(kind=KINDS[0], half=half, reading=reading)
            np.testing.assert_allclose(here, one.mean(), rtol=0, atol=FLOAT32)
            if half == "report":
                error = np.std(one - other, ddof=1) / len(group) ** 0.5
                np.testing.assert_allclose(
                    entry["error"].sel(kind=KINDS[0], change=reading), error, rtol=0.02, atol=1e-8
                )


# The cut is chosen on one half of the prompts and told on the other


PLACES = ("query 0", "feed_forward_out 0", "query 1", "feed_forward_in 1", "feed_forward_out 1")
FEED_FORWARD = ("feed_forward_in", "feed_forward_out")


def table_by_hand() -> xr.Dataset:
    """Two seeds; every change is 0 but those that are set here, in hundredths. What must not count is larger."""
    axes: dict[str, list[Any]] = {
        "seed": [0, 1], "place": list(PLACES), "cut": list(CUTS), "fraction": [0.1, 0.5, 1.0], "kind": list(KINDS),
        "half": list(HALVES), "reading": list(READINGS),
    }  # fmt: skip
    value = xr.DataArray(np.full([len(one) for one in axes.values()], 0.25), axes)
    error = xr.DataArray(
        np.zeros((2, 5, 2, 3, 2, 2)),
        {**{name: axes[name] for name in list(axes)[:5]}, "change": list(CHANGES)},
    )
    perplexity = xr.DataArray(np.full((2, 5, 2, 3), 10.0), {name: axes[name] for name in list(axes)[:4]})
    price_error = perplexity.copy(data=np.full(perplexity.shape, 0.5))
    is_late_one = [[float(place.endswith("1")) for place in PLACES]] * 2

    def put(
        seed: int,
        place: str,
        fraction: float,
        choose: int,
        report: int,
        *,
        row: str = CUTS[0],
        kind: str = KINDS[0],
    ) -> None:
        where = {"seed": seed, "place": place, "cut": row, "fraction": fraction, "kind": kind}
        for half, change in (("choose", choose), ("report", report)):
            value.loc[{**where, "half": half, "reading": "answer_probability"}] += change / 100
            value.loc[{**where, "half": half, "reading": "generic_probability"}] -= 2 * change / 100
        error.loc[{**where, "change": "answer_probability"}] = abs(report) / 1000
        error.loc[{**where, "change": "generic_probability"}] = abs(report) / 500
        if kind == KINDS[0]:
            perplexity.loc[{name: where[name] for name in ("seed", "place", "cut", "fraction")}] += choose

    put(0, "feed_forward_out 1", 0.5, choose=10, report=-3)  # chosen, though it does harm on the other half
    put(0, "feed_forward_in 1", 0.1, choose=9, report=40)
    put(1, "feed_forward_in 1", 1.0, choose=5, report=7)
    put(1, "feed_forward_out 1", 0.1, choose=4, report=50)
    for seed in (0, 1):
        put(seed, "query 1", 0.1, choose=20 + seed, report=11)  # another role
        put(seed, "feed_forward_out 0", 0.1, choose=30, report=12)  # early
        put(seed, "feed_forward_in 1", 0.5, choose=15, report=13, row=CUTS[1])  # another cut
        put(seed, "feed_forward_out 1", 1.0, choose=60, report=14, kind=KINDS[1])  # facts
    whole = xr.DataArray(
        np.full((2, 2, 2, len(READINGS)), 0.25),
        {name: axes[name] for name in ("seed", "kind", "half", "reading")},
    )
    return xr.Dataset(
        {
            "value": value, "error": error, "perplexity": perplexity, "price_error": price_error, "whole": whole,
            "whole_perplexity": ("seed", [8.0, 9.0]), "is_late": (("seed", "place"), is_late_one),
        }
    )  # fmt: skip


def test_a_cut_is_chosen_on_one_half_and_told_on_the_other() -> None:
    table = is_late(table_by_hand())
    assert table["place"].values.tolist() == list(PLACES[2:])
    for roles, kind, places, fractions, told, price in (
        (FEED_FORWARD, CUTS[0], ["feed_forward_out 1", "feed_forward_in 1"], [0.5, 1.0], [-3, 7], [20, 15]),
        (("query",), CUTS[0], ["query 1", "query 1"], [0.1, 0.1], [11, 11], [30, 31]),
        (FEED_FORWARD, CUTS[1], ["feed_forward_in 1", "feed_forward_in 1"], [0.5, 0.5], [13, 13], [25, 25]),
    ):
        best = cut_chosen(table, roles, kind)
        assert best["place"].values.tolist() == places
        assert best["fraction"].values.tolist() == fractions
        changes = np.array(told) / 100
        for name, expected in (
            ("answer_change", changes),
            ("generic_change", -2 * changes),
            ("answer_error", abs(changes) / 10),
            ("generic_error", abs(changes) / 5),
            ("perplexity", np.array(price)),
            ("whole_perplexity", np.array([8, 9])),
        ):
            np.testing.assert_allclose(best[name], expected, rtol=0, atol=1e-12, err_msg=name)


def test_the_half_to_report_on_has_no_say_in_the_choice() -> None:
    table = is_late(table_by_hand())
    best = cut_chosen(table, FEED_FORWARD, CUTS[0])
    noise = table["value"].copy(data=np.random.default_rng(0).normal(size=table["value"].shape))
    other = table.assign(value=table["value"] + noise * (table["half"] == "report"))
    again = cut_chosen(other, FEED_FORWARD, CUTS[0])
    for name in ("place", "fraction", "perplexity"):
        assert again[name].equals(best[name])
    assert not np.allclose(again["answer_change"], best["answer_change"], rtol=0, atol=1e-3)


def test_claims_read_the_chosen_cut() -> None:
    """The rows of the table by hand: what is chosen has −3, 7 hundredths of the answer by truncation, 13, 13 by removal, and
    minus twice as much of the generic one; perplexity 20 / 8 and 15 / 9."""
    outcome = sims.Outcome(contract.plan("pythia_truncation", "smoke"), table_by_hand())
    found = {claim.id: claim.check(outcome) for claim in pythia_truncation.CLAIMS}
    for name, expected in (
        ("P2", (-0.03 + 0.07) / 2),
        ("P3", 0.11),
        ("P4", (0.06 + 0.26 - 0.14 + 0.26) / 2),
        ("P5", (20 / 8 + 15 / 9) / 2),
        ("P6", (0.13 + 0.03 + 0.13 - 0.07) / 2),
    ):
        assert found[name].measured == pytest.approx(expected), name
    assert [found[name].verdict for name in ("P2", "P3", "P5")] == ["fails"] * 3
    assert "chosen: feed_forward_out 1 at 0.5; feed_forward_in 1 at 1;" in found["P2"].note


def test_the_price_of_one_model_has_an_interval_over_texts() -> None:
    """Of seed 0 alone: 20 / 8, times and over exp(1.96 · 0.5); of two seeds the interval is over seeds."""
    (price,) = (claim for claim in pythia_truncation.CLAIMS if claim.id == "P5")
    outcome = sims.Outcome(contract.plan("pythia_truncation", "smoke"), table_by_hand().isel(seed=[0]))
    assert price.check(outcome).interval == pytest.approx((2.5 * np.exp(-0.98), 2.5 * np.exp(0.98)))
    outcome.measured["price_error"] *= np.nan  # of a single text
    assert price.check(outcome).verdict == "not_measured"


def test_onsets_at_the_first_step_count_as_one() -> None:
    """A first checkpoint that holds the last weights knows everything: no doublings, and no division by 0."""
    axes = {"seed": [0, 1], "step": [0, 1, 2], "kind": list(KINDS), "reading": list(READINGS)}
    value = xr.DataArray(np.full([len(one) for one in axes.values()], 0.4), axes)
    value.loc[{"reading": "subject_probability"}] = 0.1
    same_as = (("seed", "step"), [[2.0, 1.0, 2.0]] * 2)
    outcome = sims.Outcome(
        contract.plan("pythia_over_training", "smoke"), xr.Dataset({"value": value, "same_as": same_as})
    )
    for claim in pythia_over_training.CLAIMS:
        found = claim.check(outcome)
        assert (found.measured, found.verdict) == (0.0, "fails")
