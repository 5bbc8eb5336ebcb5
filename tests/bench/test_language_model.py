"""What the full table of cuts of a language model costs: one decomposition a matrix against one an entry, and against a model
that is loaded anew for each entry; and the memory of an edit and of the table against the model's own.

Only ratios are printed, and neither time nor memory is asserted beyond sanity; what is asserted is that all roads arrive at the
same place. The model is a random GPT-NeoX of 6.6 million weights, made here."""

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sims.experiments.pythia_truncation import TWELVE
from sims.interventions.in_place import Decompositions, components_removed, edited, truncated, zeroed
from sims.interventions.low_rank import kept_rank
from sims.models.language_model import LanguageModel, load_language_model, matrix
from sims.probes.language_model import last_log_probabilities
from sims.roles import Place
from tests.sims.tiny_language_models import save

pytest.importorskip("transformers", reason="pretrained models need the extra 'pretrained'")

SHAPE: dict[str, Any] = {
    "vocab_size": 8192, "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 1024,
    "max_position_embeddings": 64, "rotary_pct": 0.25,
}  # fmt: skip
PROMPTS = [
    "Mary gave John a book to",
    "Rome is in",
    "Mary and John went to the shop , and John gave a book to",
] * 4
Entry = tuple[Place, float]
Road = Callable[[Iterable[Entry]], Iterator[LanguageModel]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model on disk."""
    return save(tmp_path_factory.mktemp("bench") / "model", "gpt_neox", **SHAPE)


def entries(model: LanguageModel, layers: Iterable[int]) -> list[Entry]:
    return [(place, fraction) for place in model.roles.places(layers=list(layers)) for fraction in TWELVE]


def one_a_matrix(model: LanguageModel, table: Iterable[Entry]) -> Iterator[LanguageModel]:
    """In place, one decomposition a matrix: what `pythia_truncation` does."""
    known = Decompositions(model)
    for place, fraction in table:
        with truncated(model, place, fraction, known) as changed:
            yield changed


def cut_alone(model: LanguageModel, place: Place, fraction: float) -> AbstractContextManager[LanguageModel]:
    """In place, with a decomposition for this entry alone, the full one too: the plain loop of the released codes."""
    whole = matrix(model, place)
    left, values, right = torch.linalg.svd(whole.double(), full_matrices=False)
    kept = slice(0, kept_rank(fraction, whole.shape))
    return edited(model, place, ((left[:, kept] * values[kept]) @ right[kept]).float())


def one_an_entry(model: LanguageModel, table: Iterable[Entry]) -> Iterator[LanguageModel]:
    for place, fraction in table:
        with cut_alone(model, place, fraction) as changed:
            yield changed


def one_load_an_entry(folder: Path, table: Iterable[Entry]) -> Iterator[LanguageModel]:
    """A fresh model for every entry, where edits are not undone."""
    for place, fraction in table:
        with cut_alone(load_language_model(str(folder)), place, fraction) as changed:
            yield changed


def loads_alone(folder: Path, table: Iterable[Entry]) -> Iterator[LanguageModel]:
    """As many loads, and nothing else: what any road that loads for each entry costs at least."""
    for _ in table:
        yield load_language_model(str(folder))


def seconds(road: Iterator[LanguageModel], *, asked: bool) -> float:
    """Of all entries of a road; with a pass over the prompts at each, or without."""
    begin = time.perf_counter()
    for changed in road:
        if asked:
            last_log_probabilities(changed, PROMPTS)
    return time.perf_counter() - begin


@pytest.mark.parametrize("asked", [False, True])
def test_the_full_table(folder: Path, asked: bool) -> None:
    """Every entry by each of the roads, which take turns layer by layer: other work on the machine slows them alike."""
    model = load_language_model(str(folder))
    roads: dict[str, Road] = {
        "one decomposition a matrix": lambda table: one_a_matrix(model, table),
        "one an entry": lambda table: one_an_entry(model, table),
        "a load and a decomposition an entry": lambda table: one_load_an_entry(folder, table),
        "a load an entry, without cutting": lambda table: loads_alone(folder, table),
    }
    some = entries(model, [1])
    expected = [
        matrix(one, place).clone()
        for (place, _), one in zip(some, roads["one decomposition a matrix"](some), strict=True)
    ]
    for name in ("one an entry", "a load and a decomposition an entry"):
        for (place, _), one, wanted in zip(some, roads[name](some), expected, strict=True):
            # float32 entries below two; sums of at most 256 components in float64, rounded once
            torch.testing.assert_close(matrix(one, place), wanted, rtol=0, atol=1e-6)
    times = dict.fromkeys(roads, 0.0)
    for layer in range(model.n_layers):
        for name, road in roads.items():
            times[name] += seconds(road(entries(model, [layer])), asked=asked)
    base, *others = times
    passes = ", a pass over 12 prompts at each" if asked else ", no passes"
    print(f"\n{len(entries(model, range(model.n_layers)))} entries{passes}: {base} {times[base]:.3g} s")
    for name in others:
        print(f"  {name} {times[name]:.3g} s: {times[name] / times[base]:.3g} times as long")


class Memory(TorchDispatchMode):
    """Most bytes that tensors made inside the block hold at one time, counted after every operation of torch.

    What an operation uses within itself, such as the workspace of a decomposition, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak, self.before = 0, set[int]()
        self.made: dict[int, weakref.ref[torch.Tensor]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for one in _pytree.tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self.made[id(one)] = weakref.ref(one)
        self.made = {key: one for key, one in self.made.items() if one() is not None}
        storages = [
            one.untyped_storage() for reference in self.made.values() if (one := reference()) is not None
        ]
        held = {one.data_ptr(): one.nbytes() for one in storages if one.data_ptr() not in self.before}
        self.peak = max(self.peak, sum(held.values()))
        return made

    def of(self, model: LanguageModel) -> "Memory":
        """The model's own memory does not count, nor do views of it."""
        self.before = {one.untyped_storage().data_ptr() for one in model.network.state_dict().values()}
        return self


def test_the_counter_counts() -> None:
    with Memory() as memory:
        one = torch.zeros(1000)
        for _ in range(5):
            two = one + 1  # at most two of these at one time, the old one and the new
        del one, two
        torch.zeros(100).view(10, 10)
    assert memory.peak == 3 * 4000


def test_memory(folder: Path) -> None:
    """Of an edit at the largest matrix of a block, a pass over the prompts, and a table of one layer with passes."""
    model = load_language_model(str(folder))
    own = sum({one.data_ptr(): one.nbytes for one in model.network.parameters()}.values())
    place = Place("feed_forward_in", 1)
    largest = matrix(model, place).nbytes

    def edits(change: Callable[[], AbstractContextManager[LanguageModel]]) -> None:
        with change():
            pass

    def table() -> None:
        for changed in one_a_matrix(model, entries(model, [1])):
            last_log_probabilities(changed, PROMPTS)

    works: dict[str, Callable[[], object]] = {
        "an edit to zero": lambda: edits(lambda: zeroed(model, place)),
        "a truncation, with its decomposition in float64": lambda: edits(
            lambda: truncated(model, place, 0.5)
        ),
        "one with a decomposition in float32": lambda: edits(
            lambda: truncated(model, place, 0.5, Decompositions(model, "float32"))
        ),
        "a removal of half of the components": lambda: edits(
            lambda: components_removed(model, place, range(128))
        ),
        "a pass over 12 prompts": lambda: last_log_probabilities(model, PROMPTS),
        "a table with a pass at each entry": table,
        "a second model": lambda: [one.clone() for one in model.network.parameters()],
    }
    print(
        f"\na model of {own / 2**20:.3g} MiB, its largest matrix but embeddings {largest / own:.3g} of it; most memory beside it:"
    )
    found = {}
    for name, work in works.items():
        with Memory().of(model) as memory:
            work()
        found[name] = memory.peak / own
        print(f"  {name}: {found[name]:.3g} of the model, {memory.peak / largest:.3g} of that matrix")
    assert found["an edit to zero"] * own == pytest.approx(largest, rel=0.01)
    assert found["a second model"] == 1
    assert found["a table with a pass at each entry"] < 1
