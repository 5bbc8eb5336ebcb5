"""Tiny random language models of every family with a word tokenizer, as folders on disk or in memory; nothing is downloaded.

Every size differs from every other, so that a matrix taken the wrong way round has the wrong shape, and every parameter is drawn,
biases and norms too, so that one that is forgotten shows.
"""

import copy
import functools
import hashlib
from pathlib import Path
from typing import Any

import torch

from sims.models.language_folder import library, quiet
from sims.models.language_model import LanguageModel, language_model

WORDS = (
    "Mary",
    "John",
    "went",
    "gave",
    "a",
    "book",
    "to",
    "the",
    "shop",
    "and",
    "Rome",
    "is",
    "in",
    "Italy",
    ",",
    ".",
)
N_LAYERS, N_HEADS, HEAD_SIZE, HIDDEN, CONTEXT, ROWS = 2, 3, 4, 20, 24, 19
"""Blocks, heads, their size, width of the feed-forward, longest context, rows of the embedding (a few more than words)."""
WIDTH = N_HEADS * HEAD_SIZE
LLAMA_HEADS, LLAMA_GROUPS, LLAMA_HEAD_SIZE = 4, 2, 6
"""Query heads, key and value heads, and a head size that is not width / heads."""
PLAIN = {"vocab_size": ROWS, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt_neox": {
        "hidden_size": WIDTH,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": CONTEXT,
        "rotary_pct": 0.5,
        "tie_word_embeddings": False,
    },
    "gpt2": {
        "n_embd": WIDTH,
        "n_layer": N_LAYERS,
        "n_head": N_HEADS,
        "n_inner": HIDDEN,
        "n_positions": CONTEXT,
    },
    "gptj": {
        "n_embd": WIDTH,
        "n_layer": N_LAYERS,
        "n_head": N_HEADS,
        "n_inner": HIDDEN,
        "n_positions": CONTEXT,
        "rotary_dim": 2,
        "tie_word_embeddings": False,
    },
    "opt": {
        "hidden_size": WIDTH,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "ffn_dim": HIDDEN,
        "max_position_embeddings": CONTEXT,
        "word_embed_proj_dim": WIDTH,
    },
    "llama": {
        "hidden_size": WIDTH,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": LLAMA_HEADS,
        "num_key_value_heads": LLAMA_GROUPS,
        "head_dim": LLAMA_HEAD_SIZE,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
    },
}
FAMILY_NAMES = tuple(CONFIGS)


def network(family: str, key: int = 0, **fields: Any) -> Any:
    """The library's model of a family, every parameter drawn; float32."""
    return copy.deepcopy(_network(family, key, tuple(fields.items())))


@functools.cache
def _network(family: str, key: int, fields: tuple[tuple[str, Any], ...]) -> Any:
    transformers = library()
    with quiet():
        config = transformers.AutoConfig.for_model(family, **{**PLAIN, **CONFIGS[family], **dict(fields)})
        made = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(key)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


@functools.cache
def tokenizer() -> Any:
    """A tokenizer of words between spaces; anything unknown is "<unk>", which is number 0."""
    tokenizers = library("tokenizers")
    vocabulary = {word: number for number, word in enumerate(("<unk>", *WORDS))}
    whole = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return library().PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="<unk>", eos_token="<unk>")


def tiny(family: str, key: int = 0, dtype: torch.dtype = torch.float64, **fields: Any) -> LanguageModel:
    """A tiny model in memory."""
    return language_model(network(family, key, **fields).to(dtype), tokenizer(), family)


def save(folder: Path, family: str, key: int = 0, **fields: Any) -> Path:
    """A tiny model as a Hugging Face folder, float32."""
    with quiet():
        network(family, key, **fields).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    return folder


def fingerprint(model: LanguageModel) -> dict[str, str]:
    """A digest of the bytes, shape and type of every parameter and buffer, to tell that none has changed."""
    return {
        name: hashlib.sha256(
            repr((one.shape, one.dtype, one.stride())).encode()
            + one.contiguous().view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for name, one in model.network.state_dict().items()
    }
