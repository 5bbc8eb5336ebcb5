"""Loading: the library's own model, safetensors alone, silently; and one sentence for everything that can be wrong."""

import hashlib
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sims.interventions.in_place import truncated, zeroed
from sims.models.language_folder import library, quiet
from sims.models.language_model import LanguageModel, language_model, load_language_model, matrix
from sims.probes.language_model import last_log_probabilities
from sims.roles import Place
from tests.sims.small_hub import SmallHub, small_hub
from tests.sims.tiny_language_models import FAMILY_NAMES, N_HEADS, ROWS, network, save, tokenizer

pytest.importorskip("transformers", reason="pretrained models need the extra 'pretrained'")

PROMPTS = ["Mary gave John a book to", "Rome is in"]


def digests(folder: Path) -> dict[str, str]:
    return {
        one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.iterdir() if one.is_file()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny GPT-NeoX model on disk."""
    return save(tmp_path / "tiny", "gpt_neox")


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_it_is_the_library_s_model_with_the_library_s_logits(family: str, dtype: str, tmp_path: Path) -> None:
    """Bit for bit, from the same folder; interventions afterwards leave the files as they are."""
    place = save(tmp_path / "model", family)
    on_disk = digests(place)
    model = load_language_model(str(place), dtype=dtype)
    with quiet():
        option = "dtype" if hasattr(model.network.config, "dtype") else "torch_dtype"
        theirs = library().AutoModelForCausalLM.from_pretrained(place, **{option: getattr(torch, dtype)})
    assert type(model.network) is type(theirs)
    tokens = torch.tensor([model.tokenizer(PROMPTS[0])["input_ids"]])
    with torch.no_grad():
        assert torch.equal(model.network(tokens).logits, theirs(tokens).logits)
    assert model.dtype == getattr(torch, dtype)
    assert str(model.device) == "cpu"
    assert (model.family.name, model.folder, model.n_layers) == (family, place, 2)
    assert (model.vocabulary_size, model.context_length) == (ROWS, 24)
    assert not model.network.training
    assert not any(one.requires_grad for one in model.network.parameters())
    for one in model.roles.places(layers=[0, 1]):
        with zeroed(model, one):
            assert not matrix(model, one).any()
    assert digests(place) == on_disk


def test_no_weight_is_there_twice(tmp_path: Path) -> None:
    """The memory of all parameters is that of one model; embedding and unembedding of GPT-2 share theirs."""
    for family in FAMILY_NAMES:
        place = save(tmp_path / family, family)
        model = load_language_model(str(place))
        stored = {one.data_ptr(): one.nbytes for one in model.network.parameters()}
        numbers = sum(one.numel() for one in network(family).parameters())
        assert sum(stored.values()) == 4 * numbers
        tied = network(family).config.tie_word_embeddings
        assert model.is_tied == tied == (family in ("gpt2", "opt"))


def test_loading_is_silent_and_leaves_the_library_as_it_was(
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    logs, hub = library().utils.logging, library("huggingface_hub").utils

    def state() -> tuple[Any, ...]:
        verbosity = logs.get_verbosity(), hub.logging.get_verbosity()
        return *verbosity, logs.is_progress_bar_enabled(), hub.are_progress_bars_disabled()

    before = state()
    assert before[2:] == (True, False)
    with caplog.at_level(logging.DEBUG):
        load_language_model(str(folder))
        with pytest.raises(ValueError, match="there is no such folder"):
            load_language_model(str(folder / "other"))
    assert state() == before
    hub.disable_progress_bars()  # and as the user chose
    logs.disable_progress_bar()
    try:
        load_language_model(str(folder))
        assert state()[2:] == (False, True)
    finally:
        logs.enable_progress_bar()
        hub.enable_progress_bars()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not [one for one in caplog.records if one.name.startswith(("transformers", "huggingface_hub"))]
    assert not recwarn.list


def test_a_checkpoint_is_a_folder_in_the_folder(folder: Path, tmp_path: Path) -> None:
    save(folder / "step8", "gpt_neox", key=8)
    first, later = load_language_model(str(folder)), load_language_model(str(folder), "step8")
    assert later.folder == folder / "step8"
    assert not torch.equal(matrix(first, Place("key", 0)), matrix(later, Place("key", 0)))
    for wrong in ("step9", "../tiny", str(tmp_path)):
        answer = f"revision is {wrong!r}; the folder {folder} has main, step8."
        with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
            load_language_model(str(folder), wrong)


def test_shards_are_read(tmp_path: Path) -> None:
    place = tmp_path / "model"
    with quiet():
        network("llama").save_pretrained(place, max_shard_size="2KB")
        tokenizer().save_pretrained(place)
    shards = sorted(place.glob("model-*.safetensors"))
    assert len(shards) > 2
    model = load_language_model(str(place))
    assert torch.equal(
        matrix(model, Place("key", 1)), network("llama").model.layers[1].self_attn.k_proj.weight
    )
    shards[1].unlink()
    index = "model.safetensors.index.json"
    answer = f"model is {str(place)!r}; {index} names {shards[1].name}, which {place} must have."
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        load_language_model(str(place))


def test_a_model_in_memory_gets_roles(folder: Path) -> None:
    made = network("gpt_neox").train()
    model = language_model(made, tokenizer(), "mine")
    assert model.network is made
    assert not made.training
    assert torch.equal(
        last_log_probabilities(model, PROMPTS),
        last_log_probabilities(load_language_model(str(folder)), PROMPTS),
    )
    made.config.num_hidden_layers = 3
    with pytest.raises(
        ValueError,
        match=r"^parameter is 'gpt_neox\.layers\.2\.attention\.query_key_value\.weight'; the model ",
    ):
        language_model(made, tokenizer())


def test_no_code_of_a_repository_runs(folder: Path, tmp_path: Path) -> None:
    """The folder brings code for config, model and tokenizer; none of it runs, and the library's own classes are used."""
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Evil: pass\n"
    )
    for name, entry in (
        ("config.json", {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}),
    ):
        known = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**known, "auto_map": entry}))
    model = load_language_model(str(folder))
    assert type(model.network).__name__ == "GPTNeoXForCausalLM"
    assert not mark.exists()


def changed(name: str, **entries: Any) -> Callable[[Path], None]:
    """A change of some entries of a JSON file."""

    def act(folder: Path) -> None:
        known = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**known, **entries}))

    return act


def removed(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def written(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never opened")


def other_weights(keep: Callable[[str], bool]) -> Callable[[Path], None]:
    """Only some of the weights."""

    def act(folder: Path) -> None:
        torch_files = library("safetensors.torch")
        kept = {
            key: one for key, one in torch_files.load_file(folder / "model.safetensors").items() if keep(key)
        }
        torch_files.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    return act


@pytest.mark.parametrize(
    ("spoil", "answer"),
    [
        (lambda folder: shutil.rmtree(folder), r"there is no such folder\."),
        (removed("config.json"), r"\S+ has no config\.json, so it is no Hugging Face model\."),
        (written("config.json", b"{"), r"\S+config\.json cannot be read as JSON\."),
        (written("config.json", b"\xff\xfe"), r"\S+config\.json cannot be read as JSON\."),
        (written("config.json", b"[]"), r"\S+config\.json must hold a JSON object\."),
        (changed("config.json", quantization_config={"bits": 4}), "which is quantised; its weights must be plain numbers"),
        (pickled, r"\S+ has pytorch_model\.bin, and only safetensors are read, as opening other weights can run code: where you "
         r"trust them, save them anew \(save_pretrained of transformers\)\."),
        (removed("model.safetensors"), r"\S+ has no model\.safetensors, and only safetensors are read, "),
        (written("model.safetensors", b"no"), r"\S+model\.safetensors is damaged \(.*\)\."),
        (written("model.safetensors", b"\x08" + 30 * b"\x00"), r"\S+model\.safetensors is damaged \(.*\)\."),
        (removed("tokenizer.json"), r"\S+ has no tokenizer, it must have tokenizer\.json\."),
        (written("tokenizer.json", b"{}"), r"its tokenizer cannot be read \(.*\)\."),
        (other_weights(lambda key: "layers.1.mlp" not in key), r"its weights do not fit config\.json: missing "
         r"gpt_neox\.layers\.1\.mlp\.dense_4h_to_h\.bias\."),
        (changed("config.json", num_hidden_layers=3), r"its weights do not fit config\.json: missing \S+\.layers\.2\.\S+\."),
        (changed("config.json", intermediate_size=21), r"its weights (do not fit config\.json: mismatched|cannot be read) .*\."),
        (changed("config.json", hidden_size="wide"), r"its config\.json cannot be read \(.*\)\."),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_model_is_told(folder: Path, spoil: Callable[[Path], Any], answer: str) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=rf"^model is '{re.escape(str(folder))}'[;,] {answer}") as caught:
        load_language_model(str(folder))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'; it must be one of float32, float16, bfloat16, float64."),
        ({"device": "tpu"}, "device is 'tpu'; it must be cpu, cuda or cuda:0."),
        ({"model": ""}, "model is empty; it must name a folder, or what is on the hub."),
        ({"revision": ""}, "revision is empty; it must name a folder, or what is on the hub."),
        ({"model": "./nowhere"}, "model is './nowhere'; there is no such folder."),
        ({"model": "a/b/c"}, "model is 'a/b/c'; there is no such folder."),
        ({"model": __file__}, f"model is {__file__!r}, which is a file; it must be a folder, or a name on the hub."),
        ({"model": "two words"}, "model is 'two words'; it must be a folder, or a name on the hub such as EleutherAI/pythia-1b."),
    ],
)  # fmt: skip
def test_bad_fields_are_told(folder: Path, fields: dict[str, str], answer: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        load_language_model(**{"model": str(folder), **fields})


def test_an_unknown_family_is_told_with_those_that_are_known(folder: Path) -> None:
    changed("config.json", model_type="bloom")(folder)
    with pytest.raises(
        ValueError,
        match=r"^model_type of the model is 'bloom'; it must be one of gpt_neox, gpt2, gptj, opt, llama ",
    ):
        load_language_model(str(folder))


def test_a_missing_library_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    answer = "transformers is not installed, and a pretrained model needs it: pip install 'recall-and-reason[pretrained]'."
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        load_language_model(str(folder))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """A hub on this machine with an empty cache; nobody's token is sent, and no proxy asked."""
    constants = library("huggingface_hub").constants
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with small_hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.address + template)
        monkeypatch.setattr(
            "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE",
            found.address + template,
            raising=False,
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        yield found
    forget_connections()


def forget_connections() -> None:
    """Some versions of the library read the settings when a connection is made, and keep it."""
    getattr(library("huggingface_hub").utils, "reset_sessions", lambda: None)()


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers any longer: the port is closed."""
    constants = library("huggingface_hub").constants
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_HUB_OFFLINE=1 sets."""
    monkeypatch.setattr(library("huggingface_hub").constants, "HF_HUB_OFFLINE", True)
    forget_connections()


def test_a_model_comes_from_the_hub_without_pickles_or_code(hub: SmallHub, tmp_path: Path) -> None:
    for step in (1, 2):
        place = hub.repositories["us/tiny", f"step{step}"] = save(
            tmp_path / f"step{step}", "gpt_neox", key=step
        )
        for name in ("pytorch_model.bin", "evil.py", "README.md", "onnx/model.safetensors"):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(b"not wanted")
    first, second = (load_language_model("us/tiny", f"step{step}") for step in (1, 2))
    for model, key in ((first, 1), (second, 2)):
        expected = network("gpt_neox", key).gpt_neox.layers[0].mlp.dense_4h_to_h.weight
        assert torch.equal(matrix(model, Place("feed_forward_out", 0)), expected)
    assert isinstance(first, LanguageModel)
    wanted = {
        name
        for name in digests(hub.repositories["us/tiny", "step1"])
        if name.endswith((".json", ".safetensors"))
    }
    assert len(wanted) >= 5
    assert set(hub.asked) == wanted
    assert first.folder is not None
    assert first.folder.name == hub.commit("us/tiny", "step1")


@pytest.mark.parametrize("cut", [unreachable, offline])
def test_what_was_brought_once_serves_without_a_hub(
    hub: SmallHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: Callable[..., None]
) -> None:
    hub.repositories["us/tiny", "main"] = save(tmp_path / "one", "opt")
    load_language_model("us/tiny")
    asked = len(hub.asked)
    cut(monkeypatch)
    with truncated(load_language_model("us/tiny"), Place("feed_forward_in", 1), 0.5) as model:
        last_log_probabilities(model, PROMPTS)
    assert len(hub.asked) == asked


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("cut", [unreachable, offline])
def test_without_a_hub_one_sentence_says_what_to_download_and_where_to_point(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    cut: Callable[..., None],
) -> None:
    cut(monkeypatch)
    command = (
        "hf download EleutherAI/pythia-1b --revision step143000 --include '*.json' --include '*.safetensors' "
        "--include '*.txt' --include tokenizer.model --local-dir FOLDER"
    )
    start = "model is 'EleutherAI/pythia-1b' at revision 'step143000'; it is not on this machine and the hub cannot be reached ("
    end = (
        f"), so download it where there is a network ({command}), copy FOLDER here and set model to its path."
    )
    with pytest.raises(ValueError, match=rf"^{re.escape(start)}\w+{re.escape(end)}$"):
        load_language_model("EleutherAI/pythia-1b", "step143000")
    assert capfd.readouterr() == ("", "")


def test_the_hub_s_refusals_are_told(
    hub: SmallHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["us/tiny", "main"] = save(tmp_path / "one", "gpt2")
    hub.repositories["us/closed", "main"] = hub.repositories["us/odd", "main"] = tmp_path / "one"
    hub.gated.add("us/closed")
    for model, revision, answer in (
        (
            "us/other",
            "main",
            "model is 'us/other'; there is no such folder here, and no public model of this name on the hub.",
        ),
        ("us/tiny", "step7", "revision is 'step7'; the hub has none of this name for us/tiny."),
        (
            "us/closed",
            "main",
            "model is 'us/closed'; its owners must first grant access, at https://huggingface.co/us/closed.",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
            load_language_model(model, revision)
    pickled(tmp_path / "one")
    answer = "model is 'us/odd'; revision 'main' on the hub has no model.safetensors, and only safetensors are read, "
    with pytest.raises(ValueError, match=f"^{answer}"):
        load_language_model("us/odd")
    changed("config.json", model_type="bloom")(tmp_path / "one")
    hub.asked.clear()
    hub.repositories["us/bloom", "main"] = tmp_path / "one"
    with pytest.raises(ValueError, match=r"^model_type of the model is 'bloom'; "):
        load_language_model("us/bloom")
    assert hub.asked == ["config.json"] * len(hub.asked)  # the family is known before weights come
    assert capfd.readouterr() == ("", "")


def test_heads_are_told(folder: Path) -> None:
    assert load_language_model(str(folder)).n_heads == N_HEADS
