"""The folder of a pretrained language model: found on this machine or brought from the Hugging Face hub, and checked.

Only safetensors and the text files of config and tokenizer are brought; code and pickled weights stay where they are. The family
is known before the weights come. What is already in the hub's cache is used when the hub cannot be reached.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sims.models.language_families import Family, family_of

BROUGHT = ("*.json", "*.safetensors", "*.txt", "tokenizer.model")
"""Files that are brought from the hub, at the top of the repository."""
NOT_BROUGHT = ("*/*", "consolidated*")
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
"""Files of a tokenizer: one of these sets must be there."""
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.npz")
"""Weights in formats that are not read; most are pickles, which can run code."""


def library(name: str = "transformers") -> Any:
    """A module of the extra `pretrained`. Raises ValueError, one sentence, when it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{name} is not installed, and a pretrained model needs it: pip install 'recall-and-reason[pretrained]'."
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, log messages or warnings of the Hugging Face libraries inside; as before afterwards."""
    transformers, hub = library().utils.logging, library("huggingface_hub").utils
    bars, hub_bars = transformers.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    levels = [(one, one.get_verbosity()) for one in (transformers, hub.logging)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            transformers.disable_progress_bar()
            hub.disable_progress_bars()
            for one, _ in levels:
                one.set_verbosity(50)
            yield
        finally:
            for one, level in levels:
                one.set_verbosity(level)
            if bars:
                transformers.enable_progress_bar()
            (hub.enable_progress_bars if hub_bars else hub.disable_progress_bars)()


def model_folder(model: str, revision: str = "main") -> tuple[Path, Family]:
    """The folder of a model on this machine, complete and readable, and its family.

    - `model`: a folder, or a name on the hub such as EleutherAI/pythia-1b.
    - `revision`: a branch, tag or commit of the hub; for a folder the name of a folder in it, and "main" for the folder itself.

    Raises ValueError, one sentence: no such folder, model or revision; the hub cannot be reached and the model is not on this
    machine (what to download and where to point); no model in the folder, an unknown family, weights that are no safetensors,
    no tokenizer. Cost: a download on the first use, checks of a few milliseconds afterwards.
    """
    for field, value in (("model", model), ("revision", revision)):
        if not value:
            raise ValueError(f"{field} is empty; it must name a folder, or what is on the hub.")
    path = Path(model).expanduser()
    if path.is_dir():
        folder = _revision_folder(path, revision)
        where, family = str(folder), _family(folder, model)
    elif path.exists():
        raise ValueError(f"model is {model!r}, which is a file; it must be a folder, or a name on the hub.")
    elif model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model:
        raise ValueError(f"model is {model!r}; there is no such folder.")
    else:
        family = _family(_brought(model, revision, ("config.json",)), model)
        folder = _brought(model, revision, BROUGHT)
        where = f"revision {revision!r} on the hub"
    _check_weights(folder, model, where)
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZERS):
        raise ValueError(f"model is {model!r}; {where} has no tokenizer, it must have tokenizer.json.")
    return folder, family


def _revision_folder(path: Path, revision: str) -> Path:
    if revision == "main":
        return path
    there = sorted(one.name for one in path.iterdir() if (one / "config.json").is_file())
    if revision in there:
        return path / revision
    raise ValueError(f"revision is {revision!r}; the folder {path} has {', '.join(['main', *there])}.")


def _family(folder: Path, model: str) -> Family:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"model is {model!r}; {folder} has no config.json, so it is no Hugging Face model.")
    config = _json(path, model)
    if "quantization_config" in config:
        raise ValueError(f"model is {model!r}, which is quantised; its weights must be plain numbers.")
    return family_of(config.get("model_type"))


def _json(path: Path, model: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"model is {model!r}; {path} cannot be read as JSON.") from error
    if not isinstance(found, dict):
        raise ValueError(f"model is {model!r}; {path} must hold a JSON object.")
    return found


def _check_weights(folder: Path, model: str, where: str) -> None:
    """Raises ValueError, one sentence, unless `folder`, which messages call `where`, has whole safetensors files."""
    index, names = folder / "model.safetensors.index.json", ["model.safetensors"]
    if not (folder / names[0]).is_file():
        if not index.is_file():
            others = sorted({one.name for pattern in OTHER_WEIGHTS for one in folder.glob(pattern)})
            raise ValueError(
                f"model is {model!r}; {where} has {', '.join(others) or 'no model.safetensors'}, and only safetensors are read, "
                "as opening other weights can run code: where you trust them, save them anew (save_pretrained of transformers)."
            )
        shards = _json(index, model).get("weight_map")
        names = sorted({Path(str(one)).name for one in shards.values()}) if isinstance(shards, dict) else []
    absent = [name for name in names if not (folder / name).is_file()]
    if absent or not names:
        raise ValueError(
            f"model is {model!r}; {index.name} names {absent[0] if absent else 'no file'}, which {where} must have."
        )
    safetensors = library("safetensors")
    for name in names:
        try:
            with safetensors.safe_open(folder / name, framework="pt"):
                pass
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(
                f"model is {model!r}; {folder / name} is damaged ({in_one_line(error)})."
            ) from error


def _brought(model: str, revision: str, patterns: tuple[str, ...]) -> Path:
    """The snapshot of a model of the hub with these files. Raises ValueError, one sentence, when it cannot be had."""
    hub = library("huggingface_hub")
    errors = hub.errors
    try:
        with quiet():
            found = hub.snapshot_download(
                model, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(NOT_BROUGHT)
            )
    except errors.HFValidationError as error:
        raise ValueError(
            f"model is {model!r}; it must be a folder, or a name on the hub such as EleutherAI/pythia-1b."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"revision is {revision!r}; the hub has none of this name for {model}.") from error
    except errors.GatedRepoError as error:
        raise ValueError(
            f"model is {model!r}; its owners must first grant access, at https://huggingface.co/{model}."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"model is {model!r}; there is no such folder here, and no public model of this name on the hub."
        ) from error
    except (
        Exception
    ) as error:  # whatever an unreachable hub raises; it differs between versions of the library
        kept = " ".join(f"--include {shlex.quote(one)}" for one in BROUGHT)
        command = (
            f"hf download {shlex.quote(model)} --revision {shlex.quote(revision)} {kept} --local-dir FOLDER"
        )
        raise ValueError(
            f"model is {model!r} at revision {revision!r}; it is not on this machine and the hub cannot be reached "
            f"({type(error).__name__}), so download it where there is a network ({command}), copy FOLDER here and set model "
            "to its path."
        ) from error
    return Path(found)


def in_one_line(error: BaseException) -> str:
    """An error's message in one line without its full stop, at most 200 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200].rstrip(".")
