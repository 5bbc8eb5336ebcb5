"""Which language model an experiment asks, and what: the model, its prompts, the tokens of their words, and texts.

The model is one of our own (`sims.recipes.story_model`), trained when it is missing, or any that
`sims.models.language_model` loads. Our own is asked in the words it knows, others in the whole table.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sims import fields
from sims.engine import check_device
from sims.models.language_model import DTYPES, LanguageModel, load_language_model
from sims.probes.language_model import TextLosses, last_log_probabilities, text_losses
from sims.probes.prompt_answers import prompt_readings
from sims.recipes import story_model
from sims.streams import generator
from sims.tasks.prompts import (
    Prompt,
    fact_prompts,
    halves,
    indirect_object_prompts,
    prompt_words,
    single_token_ids,
)
from sims.tasks.prose import PROSE, paragraphs
from sims.tasks.story_language import StoryLanguage
from sims.tasks.words import Words, all_words

OWN = {"story-smoke": story_model.SMOKE, "story": story_model.LAPTOP, "story-paper": story_model.PAPER}
"""Names of our own models, and their trainings; seed by seed."""
KINDS = ("indirect object", "fact")
HALVES = ("choose", "report")
READINGS = (
    *("answer_probability", "generic_probability", "subject_probability", "margin", "accuracy"),
    *("answer_rank", "generic_rank"),
)
"""What is read off the prompts, see `sims.probes.prompt_answers`; of a subject, 0 for facts, which have none."""
READ = (".safetensors", ".json", ".txt", ".model")
"""Endings of the files of a folder that are read."""


@dataclass(frozen=True)
class AskedModel:
    """Which model, and what it is asked.

    - `model`: one of `OWN`, a folder, or a name on the Hugging Face hub such as EleutherAI/pythia-1b. `revision`: of our own, the
      step, such as step1024, or main for the last one; else a branch of the hub, or a folder in the folder.
    - `dtype`: float32, float16, bfloat16 or float64.
    - `n_indirect_object`, `n_fact`: prompts of each kind; multiples of 24 of the first are balanced in both halves.
    - `texts`: for the perplexity: stories, drawn from the language of our own models, three sentences each; prose, the paragraphs
      of sims/tasks/prose.txt; or a text file in UTF-8 whose paragraphs stand apart by empty lines. Without it our own models
      read stories and all others prose. `n_texts`: how many, the first ones of a file, or all where it has fewer.
    - `batch_size`: prompts that are read together.
    - `fingerprint`: of a folder's weights and of the file of texts, always found by itself, so that stored results of files that
      changed are not used.

    The seed is that of our own training, and of the prompts of any model.
    """

    model: str = "story"
    revision: str = "main"
    dtype: Literal["float32", "float16", "bfloat16", "float64"] = "float32"
    n_indirect_object: int = 96
    n_fact: int = 64
    texts: str = ""
    n_texts: int = 64
    batch_size: int = 64
    fingerprint: str = ""

    def __post_init__(self) -> None:
        fields.check(self)
        for name, least in (("n_indirect_object", 2), ("n_fact", 2), ("n_texts", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; it must be one of {', '.join(DTYPES)}.")
        if self.model in OWN:
            _ = self.step
        # one that is given may be of another folder or revision, handed on by dataclasses.replace
        made = "" if self.model in OWN else folder_fingerprint(self.model, self.revisions)
        if self.text_file is not None:
            made += hashlib.sha256("\n\n".join(paragraphs(self.text_file)).encode()).hexdigest()[:16]
        object.__setattr__(self, "fingerprint", made)

    @property
    def revisions(self) -> tuple[str, ...]:
        """Every revision that is read."""
        return (self.revision,)

    @property
    def recipe(self) -> story_model.StoryRecipe | None:
        """The training of our own model; None for others."""
        return OWN.get(self.model)

    @property
    def step(self) -> int:
        """The checkpoint of our own model. Raises ValueError for one that is not kept."""
        kept = OWN[self.model].checkpoint_steps
        if self.revision == "main":
            return kept[-1]
        named = {f"step{one}": one for one in kept}
        if self.revision not in named:
            raise ValueError(
                f"revision is {self.revision!r}; of model {self.model} it must be main or one of {', '.join(named)}."
            )
        return named[self.revision]

    @property
    def text_file(self) -> Path | None:
        """The file of the texts; None for stories."""
        texts = self.texts or ("prose" if self.recipe is None else "stories")
        return None if texts == "stories" else PROSE if texts == "prose" else Path(texts).expanduser()

    @property
    def words(self) -> Words:
        """The words of its prompts."""
        return all_words() if self.recipe is None else self.recipe.language.words


def folder_fingerprint(model: str, revisions: Sequence[str] = ("main",)) -> str:
    """What tells one state of a folder from another: where its revisions lie, and names, sizes and times of their files; "" where
    there is no folder."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return ""
    told = []
    for place in (folder if one == "main" else folder / one for one in revisions):
        files = sorted(one for one in place.iterdir() if one.suffix in READ) if place.is_dir() else []
        states = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files]
        told.append((str(place.resolve()), states))
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Subject:
    """A model that is ready to be asked.

    - `prompts`: of each kind and half. `token_of`: of their words. `candidates`: of each kind, among which an answer is right or
      not. `texts`: for the perplexity.
    """

    model: LanguageModel
    prompts: Mapping[tuple[str, str], Sequence[Prompt]]
    token_of: Mapping[str, int]
    candidates: Mapping[str, Sequence[str]]
    texts: Sequence[str]
    batch_size: int

    def ask(self) -> dict[tuple[str, str], dict[str, np.ndarray]]:
        """Readings of every prompt, by kind and half, for the model as it is at the moment."""
        every = [one for group in self.prompts.values() for one in group]
        table = last_log_probabilities(self.model, [one.text for one in every], self.batch_size)
        table = table.double().cpu()
        found, first = {}, 0
        for key, group in self.prompts.items():
            rows = table[first : first + len(group)].numpy()
            found[key] = prompt_readings(rows, group, self.token_of, self.candidates[key[0]])
            first += len(group)
        return found

    def losses(self) -> TextLosses:
        """Of the texts, for the model as it is at the moment."""
        return text_losses(self.model, self.texts, self.batch_size)


def subject(config: AskedModel, seed: int, device: str) -> Subject:
    """Load the model, training our own when it is missing, and draw what it is asked.

    Raises ValueError, one sentence, for what the loader refuses, for words that are no single token of its tokenizer, and for
    prompts too few for both halves.
    """
    check_device(device)
    words = config.words
    drawn = {
        "indirect object": indirect_object_prompts(config.n_indirect_object, seed, words=words),
        "fact": fact_prompts(min(config.n_fact, 4 * len(words.countries)), seed, words=words),
    }
    prompts = {
        (kind, half): group
        for kind, every in drawn.items()
        for half, group in zip(HALVES, halves(every), strict=True)
    }
    for (kind, half), group in prompts.items():
        if not group:
            name = "n_" + kind.replace(" ", "_")
            raise ValueError(
                f"{name} is {getattr(config, name)}; no prompt is left to {half}, so it must be larger."
            )
    where, revision = config.model, config.revision
    if config.recipe is not None:
        where, revision = (
            str(story_model.story_model_folder(config.recipe, seed, config.step, device)),
            "main",
        )
    model = load_language_model(where, revision, config.dtype, device)
    candidates = {
        "indirect object": [" the", *(f" {name}" for name in words.names)],
        "fact": [" the", *(f" {name}" for name in words.countries)],
    }
    needed = prompt_words([one for group in prompts.values() for one in group])
    needed = list(dict.fromkeys([*needed, *candidates["indirect object"], *candidates["fact"]]))
    token_of = dict(zip(needed, single_token_ids(model.tokenizer, needed), strict=True))
    return Subject(model, prompts, token_of, candidates, _texts(config, words, seed), config.batch_size)


def _texts(config: AskedModel, words: Words, seed: int) -> list[str]:
    if config.text_file is not None:
        return paragraphs(config.text_file)[: config.n_texts]
    language = config.recipe.language if config.recipe is not None else StoryLanguage(words)
    return language.texts(config.n_texts, 3, generator("language_models", "texts", seed))


def readings_table(found: Mapping[tuple[str, str], Mapping[str, np.ndarray]]) -> np.ndarray:
    """Means over prompts, float64 (kinds, halves, readings)."""
    rows = [
        [[float(np.nan_to_num(found[kind, half][name].mean())) for name in READINGS] for half in HALVES]
        for kind in KINDS
    ]
    return np.array(rows)


def change_error(
    found: Mapping[tuple[str, str], Mapping[str, np.ndarray]],
    before: Mapping[tuple[str, str], Mapping[str, np.ndarray]],
    names: Sequence[str],
) -> np.ndarray:
    """Standard error over the prompts to report on of the change of each reading, float64 (kinds, readings)."""
    rows = []
    for kind in KINDS:
        here, there = found[kind, "report"], before[kind, "report"]
        changes = [here[name] - there[name] for name in names]
        rows.append(
            [float(one.std(ddof=1) / math.sqrt(len(one))) if len(one) > 1 else math.nan for one in changes]
        )
    return np.array(rows)
