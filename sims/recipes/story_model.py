"""Training a small GPT-NeoX language model on stories, kept as Hugging Face folders at log-spaced steps.

The model has the architecture of Pythia (rotary positions, attention and feed-forward side by side), so that whatever opens
Pythia opens it. A folder `trained/story_model/<identity>/step-000064` in the store of `sims.records` has config.json,
model.safetensors, the tokenizer, and training.json with how it was made. It is written beside its place and renamed.
Needs the extra `pretrained`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from sims import engine, fields, records, source
from sims.streams import generator, seed_sequence, torch_generator
from sims.tasks.story_language import END_OF_TEXT, StoryLanguage
from sims.tasks.words import all_words, table_digest
from sims.training import Training, check_optimiser, make_learning_rate_schedule, make_optimiser

DETAILS = "training.json"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", DETAILS)


@dataclass(frozen=True)
class StoryRecipe:
    """All settings of one training: AdamW on the mean cross-entropy of the next token at all positions, cosine schedule.

    - `n_names` … `n_countries`: how much of the table of words is used, see `sims.tasks.words`.
    - `indirect_object_share`, `fact_share`, `generic_share`: see `sims.tasks.story_language`.
    - `context_length`: tokens of a training row, each of which begins with a sentence. `batch_size`: rows a step.
    - `width`, `n_layers`, `n_heads`, `feed_forward_width`: the model. `rotary_share`: share of each head that is turned by its
      position; a quarter in Pythia, but with the whole, names are copied from the context after fewer steps. `init_std`:
      standard deviation of all matrices and embeddings at the start; biases start at 0.
    - `learning_rate`, `weight_decay`, `warmup_steps`, `final_step`: see `sims.training`.
    - `checkpoints_per_doubling`: kept steps are 0, the rounded powers of 2^(1/this), and `final_step`.

    Raises ValueError, one sentence, for a value that is not allowed.
    """

    NAME: ClassVar[str] = "story_model"

    n_names: int = 32
    n_places: int = 24
    n_objects: int = 24
    n_people: int = 16
    n_countries: int = 64
    indirect_object_share: float = 0.5
    fact_share: float = 0.15
    generic_share: float = 0.3
    context_length: int = 20
    width: int = 128
    n_layers: int = 4
    n_heads: int = 8
    feed_forward_width: int = 512
    rotary_share: float = 1.0
    init_std: float = 0.1
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    batch_size: int = 32
    final_step: int = 2000
    checkpoints_per_doubling: int = 2

    def __post_init__(self) -> None:
        fields.check(self)
        for name, least in (
            *(("width", 1), ("n_layers", 1), ("n_heads", 1), ("feed_forward_width", 1), ("batch_size", 1)),
            *(("context_length", 2), ("final_step", 1), ("checkpoints_per_doubling", 1)),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 < self.init_std < np.inf:
            raise ValueError(f"init_std is {self.init_std}; it must be finite and above 0.")
        turned = self.width / self.n_heads * self.rotary_share
        if self.width % self.n_heads or not 0 < self.rotary_share <= 1 or turned % 2:
            raise ValueError(
                f"rotary_share is {self.rotary_share}; the turned part of a head, width / n_heads · rotary_share, must be "
                f"an even number, and is {turned:g}."
            )
        _ = self.language
        check_optimiser("adamw", self.learning_rate, 0.0, self.weight_decay)
        make_learning_rate_schedule("cosine", self.final_step, self.warmup_steps)

    @property
    def language(self) -> StoryLanguage:
        """The language of the training."""
        words = all_words().first(
            self.n_names, self.n_places, self.n_objects, self.n_people, self.n_countries
        )
        return StoryLanguage(words, self.indirect_object_share, self.fact_share, self.generic_share)

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """The steps that are kept, in their order."""
        spaced = (round(2 ** (k / self.checkpoints_per_doubling)) for k in itertools.count())
        below = itertools.takewhile(lambda step: step < self.final_step, spaced)
        return tuple(sorted({0, *below, self.final_step}))

    def begin(self, seed: int, device: str = "cpu") -> tuple[Any, Training]:
        """A fresh model of this seed, a GPTNeoXForCausalLM on the device, and its training before the first step.

        Raises ValueError when transformers is not installed.
        """
        language = self.language
        model = _new_model(self, len(language.vocabulary), language.token_of[END_OF_TEXT], seed).to(device)
        draws = generator(self.NAME, "sentences", seed)
        training = Training(
            make_optimiser(list(model.parameters()), "adamw", self.learning_rate, 0.0, self.weight_decay),
            lambda: self._loss(model, language, draws),
            schedule=make_learning_rate_schedule("cosine", self.final_step, self.warmup_steps),
        )
        return model, training

    def _loss(self, model: Any, language: StoryLanguage, draws: np.random.Generator) -> torch.Tensor:
        rows = torch.from_numpy(language.draw(self.batch_size, self.context_length + 1, draws)).to(
            model.device
        )
        logits = model(rows[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


SMOKE = StoryRecipe(
    n_names=8,
    n_places=4,
    n_objects=4,
    n_people=4,
    n_countries=4,
    indirect_object_share=0.8,
    fact_share=0.1,
    context_length=18,
    width=64,
    n_layers=2,
    feed_forward_width=128,
    learning_rate=4e-3,
    warmup_steps=20,
    final_step=320,
    checkpoints_per_doubling=1,
)
LAPTOP = StoryRecipe()
PAPER = StoryRecipe(
    n_names=64,
    n_layers=6,
    n_heads=4,
    rotary_share=0.25,
    context_length=48,
    learning_rate=1e-3,
    warmup_steps=200,
    batch_size=512,
    final_step=8192,
)
"""The shape of Pythia 14m, without its vocabulary; for a GPU."""


def story_model_folder(recipe: StoryRecipe, seed: int, step: int, device: str = "cpu") -> Path:
    """The folder of the model after `step` steps, which `AutoModelForCausalLM.from_pretrained` opens.

    It is found in the store, whichever device made it; else the whole training is made, and all of its `checkpoint_steps` kept.
    Raises ValueError for a seed, step or device that is not allowed, or without transformers; OSError for an unwritable store;
    `sims.training.DivergedError`.
    """
    if step not in recipe.checkpoint_steps:
        listed = ", ".join(map(str, recipe.checkpoint_steps))
        raise ValueError(f"step is {step!r}; it must be one of the kept steps: {listed}.")
    seed = _checked_seed(seed)
    if not _is_whole(recipe, seed, step):
        train_story_model(recipe, seed, device)
    return _path(recipe, seed, step)


def train_story_model(
    recipe: StoryRecipe, seed: int, device: str = "cpu", probe: Callable[[int, Any], Any] | None = None
) -> list[Any]:
    """Train from step 0, on one thread on a CPU, keep each of `checkpoint_steps`, and read `probe(step, model)` at each.

    Raises what `story_model_folder` does.
    """
    engine.check_device(device)
    seed, language, readings = _checked_seed(seed), recipe.language, []
    records.Store(records.results_folder()).prepare()
    with engine.one_thread():
        model, training = recipe.begin(seed, device)
        for step in recipe.checkpoint_steps:
            training.advance(step)
            if not _is_whole(recipe, seed, step):
                _keep(recipe, seed, step, device, model, language)
            if probe is not None:
                with torch.no_grad():
                    readings.append(probe(step, model.eval()))
                model.train()
    return readings


def _checked_seed(seed: int) -> int:
    seed_sequence(StoryRecipe.NAME, "sentences", seed)
    return int(seed)


def _new_model(recipe: StoryRecipe, n_tokens: int, end_of_text: int, seed: int) -> Any:
    """The model with weights that depend on the recipe's shape and the seed alone, on no version of transformers."""
    try:
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    except ImportError as error:
        raise ValueError(
            "the package transformers is missing; install recall-and-reason[pretrained]."
        ) from error
    config = GPTNeoXConfig(**_settings(recipe, n_tokens, end_of_text))
    with torch.random.fork_rng(devices=[]):  # it draws weights, which are drawn again here
        model = GPTNeoXForCausalLM(config).float()
    draws = torch_generator(recipe.NAME, "initialisation", seed)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if one.ndim == 2:
                one.normal_(0.0, recipe.init_std, generator=draws)
            else:
                one.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.train()


def _settings(recipe: StoryRecipe, n_tokens: int, end_of_text: int) -> dict[str, Any]:
    """Settings of a GPTNeoXConfig, in the names that old and new versions of transformers understand."""
    return {
        "vocab_size": n_tokens,
        "hidden_size": recipe.width,
        "num_hidden_layers": recipe.n_layers,
        "num_attention_heads": recipe.n_heads,
        "intermediate_size": recipe.feed_forward_width,
        "max_position_embeddings": max(recipe.context_length, 64),
        "rotary_pct": recipe.rotary_share,
        "rotary_emb_base": 10000,
        "use_parallel_residual": True,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text),
    }


@cache
def _code_digest() -> str:
    return source.code_digest(Path(__file__), entry_points=("StoryRecipe", "train_story_model"))


def _identity(recipe: StoryRecipe, seed: int) -> str:
    return records.identity(recipe.NAME, recipe, seed, f"{_code_digest()}{table_digest()}")


def _path(recipe: StoryRecipe, seed: int, step: int) -> Path:
    return records.results_folder() / "trained" / recipe.NAME / _identity(recipe, seed) / f"step-{step:06d}"


def _is_whole(recipe: StoryRecipe, seed: int, step: int) -> bool:
    """Whether the folder is there; one that lacks a file or belongs elsewhere is set aside."""
    path = _path(recipe, seed, step)
    if not path.exists():
        return False
    try:
        details = json.loads((path / DETAILS).read_text(encoding="utf-8"))
        known = (details["identity"], details["step"]) == (_identity(recipe, seed), step)
        whole = known and all((path / name).stat().st_size == details["bytes"][name] for name in FILES[:-1])
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        records.move_aside(path)
    return whole


def _keep(
    recipe: StoryRecipe, seed: int, step: int, device: str, model: Any, language: StoryLanguage
) -> None:
    """Write a folder beside its place, and rename it."""
    path = _path(recipe, seed, step)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        config = _settings(recipe, len(language.vocabulary), language.token_of[END_OF_TEXT])
        config |= {
            "model_type": "gpt_neox",
            "architectures": [type(model).__name__],
            "torch_dtype": "float32",
        }
        (partial / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        # the names of the hub's own files, which every version of transformers reads
        named = {name.replace("lm_head", "embed_out"): one for name, one in model.named_parameters()}
        weights = {name: one.detach().cpu().contiguous() for name, one in named.items()}
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        language.save_tokenizer(partial)
        details = {
            "recipe": recipe.NAME,
            "fields": dataclasses.asdict(recipe),
            "seed": seed,
            "step": step,
            "identity": _identity(recipe, seed),
            "code_digest": _code_digest(),
            "device": engine.device_name(device),
            "versions": records.versions(),
            "command": records.command(),
            "bytes": {name: (partial / name).stat().st_size for name in FILES[:-1]},
        }
        records.write_text(partial / DETAILS, json.dumps(details, indent=1, sort_keys=True))
        for name in FILES[:-1]:
            with (partial / name).open("rb+") as written:
                os.fsync(written.fileno())
        try:
            partial.rename(path)
        except OSError:
            if not path.is_dir():  # else another process was faster, with the same numbers
                raise
    except OSError as error:
        raise OSError(f"folder {path} cannot be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
