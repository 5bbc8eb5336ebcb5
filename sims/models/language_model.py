"""A pretrained language model of any known family, with a role table like the toy models have.

The network is the library's own (Hugging Face transformers) and computes as it does there. `view` and `matrix` reach the weight
of a place in it; nothing is copied. sims.interventions.in_place changes one matrix for a while.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sims.engine import check_device
from sims.models.language_families import Family, family_of
from sims.models.language_folder import in_one_line, library, model_folder, quiet
from sims.roles import Place, RoleTable

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64")}
"""Types that weights can be loaded as."""
TIED = ("embedding", "unembedding")
"""Roles that share one matrix in some models."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model and its tokenizer.

    - `network`: the library's model, in evaluation mode, without gradients. `tokenizer`: the library's tokenizer.
    - `family`: the row of the role table. `name`: what the user called it. `folder`: where it lies; None for one in memory.
    """

    network: Any
    tokenizer: Any
    family: Family
    name: str = ""
    folder: Path | None = None
    changed: set[Place] = field(default_factory=set, repr=False)
    """Places that an intervention holds changed at the moment."""

    @cached_property
    def roles(self) -> RoleTable:
        """Which parameter plays which role."""
        return self.family.roles(self.n_layers, dict(self.network.named_parameters(remove_duplicate=False)))

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.network.config.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        """Number of heads of each block's attention; of its query where heads are grouped."""
        return int(self.network.config.num_attention_heads)

    @property
    def context_length(self) -> int:
        """The most tokens that the model reads at once."""
        return int(self.network.config.max_position_embeddings)

    @property
    def vocabulary_size(self) -> int:
        """Number of logits; some may belong to no token, as tables are padded to round sizes."""
        return int(self.network.get_output_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.network.get_input_embeddings().weight.dtype

    @cached_property
    def is_tied(self) -> bool:
        """Whether embedding and unembedding are one matrix in memory, as in GPT-2 and OPT: neither can be changed alone."""
        return len({view(self, Place(role)).data_ptr() for role in TIED}) == 1


def view(model: LanguageModel, place: Place) -> torch.Tensor:
    """The matrix at a place in the model's own memory, shape (groups, out / groups, in); `flatten(0, 1)` is (out, in).

    There is one group but for query, key and value of GPT-NeoX, whose rows alternate head by head: there it is one a head.
    Writing into it changes the model. Raises ValueError, one sentence, for an unknown place or one without a matrix.
    """
    name = model.roles.name(*place)
    return model.family.part(place).view(model.network.get_parameter(name), model.n_heads)


def matrix(model: LanguageModel, place: Place) -> torch.Tensor:
    """The matrix at a place as it acts on columns, shape (out, in); embedding and positions have a row a token or position.

    Of an unembedding `out` are tokens. It lies in the model's memory, but for query, key and value of GPT-NeoX, where it is a
    gathered copy: only read it. Raises ValueError as `view` does.
    """
    return view(model, place).flatten(0, 1)


def language_model(network: Any, tokenizer: Any, name: str = "", folder: Path | None = None) -> LanguageModel:
    """The same network with a role table; it is set to evaluation mode, its gradients are switched off, nothing is copied.

    Raises ValueError, one sentence, for an unknown family or a parameter that is missing.
    """
    model = LanguageModel(network.eval(), tokenizer, family_of(network.config.model_type), name, folder)
    for place in model.roles.names:
        view(model, place)
    network.requires_grad_(False)
    return model


def load_language_model(
    model: str, revision: str = "main", dtype: str = "float32", device: str = "cpu"
) -> LanguageModel:
    """A causal language model from a folder, or from the Hugging Face hub.

    - `model`, `revision`: a name on the hub such as EleutherAI/pythia-1b and its branch, tag or commit; or a folder, of which a
      revision other than "main" is a folder in it.
    - `dtype`: type of the weights, one of float32, float16, bfloat16, float64. `device`: cpu, cuda or cuda:0.

    Only safetensors are read and no code of the repository runs. Silent. Raises ValueError, one sentence, for a bad field, what
    `sims.models.language_folder.model_folder` tells, weights that do not fit config.json, or too little memory.
    Cost: a download on the first use, then one pass over the weights.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}.")
    check_device(device)
    transformers = library()
    folder, _ = model_folder(model, revision)
    wanted = {_dtype_option(transformers.__version__): DTYPES[dtype]}
    safely = {"trust_remote_code": False, "local_files_only": True}
    with quiet():
        part = "config.json"
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **safely)
            part = "tokenizer"
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, config=config, **safely)
            part = "weights"
            network, loaded = transformers.AutoModelForCausalLM.from_pretrained(
                folder, config=config, use_safetensors=True, output_loading_info=True, **wanted, **safely
            )
        except Exception as error:  # a damaged file can raise anything
            raise ValueError(
                f"model is {model!r}; its {part} cannot be read ({in_one_line(error)})."
            ) from error
    for kind in ("missing_keys", "mismatched_keys"):
        if loaded[kind]:
            one = sorted(str(key) for key in loaded[kind])[0]
            raise ValueError(
                f"model is {model!r}; its weights do not fit config.json: {kind.replace('_keys', '')} {one}."
            )
    try:
        network = network.to(device)
    except torch.OutOfMemoryError as error:
        raise ValueError(f"device is {device!r}; its memory is too small for {model} in {dtype}.") from error
    return language_model(network, tokenizer, model, folder)


def _dtype_option(version: str) -> str:
    """What the library calls the type of the weights; it has changed the word in version 4.56."""
    major, minor = (int(one) for one in version.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"
