"""Interventions in place: they change what they name and nothing else, and are undone bit for bit."""

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.interventions.in_place import (
    Decompositions,
    components_removed,
    edited,
    randomised_truncation,
    truncated,
    zeroed,
)
from sims.interventions.low_rank import kept_rank
from sims.models.language_model import LanguageModel, matrix, view
from sims.probes.language_model import last_log_probabilities
from sims.roles import Place
from tests.sims.tiny_language_models import FAMILY_NAMES, fingerprint, tiny

pytest.importorskip("transformers", reason="pretrained models need the extra 'pretrained'")

PROMPTS = ["Mary gave John a book to", "Rome is in"]
OUT = Place("feed_forward_out", 1)
ROUNDING = 1e-12
"""float64 SVD and product of matrices of norm below 10: a few hundred roundings of 1.1e-16."""
WAYS: dict[str, Callable[[LanguageModel, Place], AbstractContextManager[LanguageModel]]] = {
    "zeroed": zeroed,
    "truncated": lambda model, place: truncated(model, place, 0.4),
    "components_removed": lambda model, place: components_removed(model, place, [0, 2]),
    "edited": lambda model, place: edited(model, place, lambda whole: -whole),
    "randomised": lambda model, place: truncated(
        model, place, 0.4, method="randomised", generator=torch.Generator().manual_seed(0)
    ),
}


def weights(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in model.network.state_dict().items()}


def editable(model: LanguageModel) -> list[Place]:
    return [
        one
        for one in model.roles.places()
        if not (model.is_tied and one.role in ("embedding", "unembedding"))
    ]


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_an_intervention_changes_what_it_names_and_nothing_else(family: str, way: str) -> None:
    """Every entry of every parameter and buffer is compared; afterwards all bytes are as before."""
    model = tiny(family)
    before, marks = weights(model), fingerprint(model)
    for place in editable(model):
        whole = matrix(model, place).clone()
        named = {name: torch.zeros_like(one, dtype=torch.bool) for name, one in before.items()}
        name = model.roles.names[place]
        model.family.part(place).view(named[name], model.n_heads).fill_(True)
        with WAYS[way](model, place) as inside:
            assert inside is model
            for key, one in model.network.state_dict().items():
                assert torch.equal(one[~named[key]], before[key][~named[key]]), key
            changed = matrix(model, place)
            assert not torch.equal(changed, whole)
            if way == "zeroed":
                assert not changed.any()
            elif way == "edited":
                assert torch.equal(changed, -whole)
            else:
                u, s, vt = np.linalg.svd(whole.numpy(), full_matrices=False)
                if way == "truncated":
                    s[kept_rank(0.4, whole.shape) :] = 0
                else:
                    s[[0, 2]] = 0
                if way != "randomised":
                    np.testing.assert_allclose(changed.numpy(), (u * s) @ vt, rtol=0, atol=ROUNDING)
        assert fingerprint(model) == marks


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_the_model_says_follows_the_matrix_and_comes_back(family: str) -> None:
    """Inside, the model is the one that has the other matrix for good; afterwards its words are as before, bit for bit."""
    model, other = tiny(family), tiny(family)
    plain = last_log_probabilities(model, PROMPTS)
    for place in editable(model):
        new = torch.randn(matrix(model, place).shape, generator=torch.Generator().manual_seed(5)).double()
        held = view(other, place).clone()
        view(other, place).copy_(new.reshape(held.shape))
        expected = last_log_probabilities(other, PROMPTS)
        view(other, place).copy_(held)
        with edited(model, place, new):
            found = last_log_probabilities(model, PROMPTS)
        assert torch.equal(found, expected)
        assert (found - plain).abs().max() > 1e-6
        assert torch.equal(last_log_probabilities(model, PROMPTS), plain)


class Stop(Exception):
    """Raised by a test."""


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Stop, KeyboardInterrupt])
def test_it_is_undone_after_an_error(family: str, way: str, kind: type[BaseException]) -> None:
    model = tiny(family, dtype=torch.float32)
    marks = fingerprint(model)
    for place in editable(model):
        with pytest.raises(kind), WAYS[way](model, place):  # noqa: PT012
            assert fingerprint(model) != marks
            view(model, place).mul_(3)  # whatever the block does to it
            raise kind
        assert fingerprint(model) == marks
        assert not model.changed


def test_a_function_that_fails_half_way_leaves_nothing_behind() -> None:
    model = tiny("gpt2")
    marks = fingerprint(model)

    def spoils(whole: torch.Tensor) -> torch.Tensor:
        whole[0] = torch.nan
        raise Stop

    with pytest.raises(Stop), edited(model, OUT, spoils):
        pass
    assert fingerprint(model) == marks
    with pytest.raises(ValueError, match="has shape"), edited(model, OUT, lambda whole: whole.mul_(2)[1:]):
        pass
    assert fingerprint(model) == marks


def test_odd_bits_come_back() -> None:
    """Negative zeros, infinities and payloads of NaN are undone too."""
    model = tiny("gpt_neox", dtype=torch.float32)
    odd = torch.tensor([-0.0, torch.inf, -torch.inf, torch.nan])
    odd.view(torch.int32)[3] = 0x7FC12345
    view(model, Place("key", 0))[1, 2, :4] = odd
    marks = fingerprint(model)
    with zeroed(model, Place("key", 0)):
        assert fingerprint(model) != marks
    assert fingerprint(model) == marks


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_fraction_1_is_untouched_and_0_is_zeroing(
    family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither makes a decomposition; the first does not even write (torch counts writes to a parameter)."""
    monkeypatch.setattr(torch.linalg, "svd", lambda *_, **__: pytest.fail("a decomposition was made"))
    model = tiny(family, dtype=dtype)
    marks = fingerprint(model)
    for place in editable(model):
        own = model.network.get_parameter(model.roles.names[place])
        version = own._version
        for method in ("exact", "randomised"):
            with truncated(model, place, 1.0, method=method, generator=torch.Generator()):
                assert fingerprint(model) == marks
        with components_removed(model, place, []):
            assert fingerprint(model) == marks
        assert own._version == version
        with zeroed(model, place):
            zero = fingerprint(model)
        with truncated(model, place, 0.0):
            assert fingerprint(model) == zero
            assert not matrix(model, place).any()
        assert fingerprint(model) == marks


@given(st.sampled_from(FAMILY_NAMES), st.data())
def test_the_matrix_inside_has_the_rank_that_is_named(family: str, data: st.DataObject) -> None:
    model = tiny(family)
    place = data.draw(st.sampled_from(editable(model)))
    fraction = data.draw(st.floats(0, 1))
    whole = matrix(model, place).clone()
    marks = fingerprint(model)
    with truncated(model, place, fraction):
        kept = matrix(model, place).clone()
    assert torch.linalg.matrix_rank(kept, atol=1e-9) == kept_rank(fraction, whole.shape)
    dropped = range(kept_rank(fraction, whole.shape))
    with components_removed(model, place, list(dropped)):
        torch.testing.assert_close(kept + matrix(model, place), whole, rtol=0, atol=ROUNDING)
    assert fingerprint(model) == marks


def test_one_decomposition_a_matrix_serves_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **kwargs: calls.append(1) or svd(*args, **kwargs))
    model = tiny("gpt_neox")
    places, fractions = model.roles.places(layers=[0, 1]), np.linspace(0, 1, 12)
    known = Decompositions(model)
    for place in places:
        for fraction in fractions:
            with truncated(model, place, fraction, known):
                pass
        with components_removed(model, place, [1], known):
            pass
    assert len(calls) == len(places) == 12
    one_at_a_time = len(calls)
    with truncated(model, places[0], 0.5, known):  # the first place was let go of long ago
        pass
    assert len(calls) == one_at_a_time + 1
    everything = Decompositions(model, kept=None)
    calls.clear()
    for fraction in fractions:  # the other way round
        for place in places:
            with truncated(model, place, fraction, everything):
                pass
    assert len(calls) == len(places)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cut_in_float64_and_rounded_once(dtype: torch.dtype) -> None:
    model = tiny("llama", dtype=dtype)
    whole = matrix(model, OUT).double()
    u, s, vt = torch.linalg.svd(whole, full_matrices=False)
    with truncated(model, OUT, 0.5):
        found = matrix(model, OUT)
        assert found.dtype == dtype
        assert torch.equal(found, ((u[:, :6] * s[:6]) @ vt[:6]).to(dtype))
    with truncated(model, OUT, 0.5, Decompositions(model, "float32")):
        # A few roundings of float32 first: seldom another half-precision number, and then its neighbour.
        torch.testing.assert_close(matrix(model, OUT).double(), found.double(), rtol=0, atol=0.02)


def test_float32_decompositions_are_good_to_float32() -> None:
    model = tiny("gptj", dtype=torch.float32)
    with truncated(model, OUT, 0.5):
        exact = matrix(model, OUT).clone()
    known = Decompositions(model, "float32")
    assert known.of(OUT).left.dtype == torch.float32
    with truncated(model, OUT, 0.5, known):
        # Norm below 5, gaps between singular values above 0.01: 5 × 6e-8 × 5 / 0.01 at most.
        torch.testing.assert_close(matrix(model, OUT), exact, rtol=0, atol=2e-4)
    assert (
        Decompositions(tiny("gptj"), "float32").of(OUT).left.dtype == torch.float64
    )  # never below the model's own


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_the_randomised_truncation_never_beats_the_exact_one(
    rows: int, columns: int, data: st.DataObject
) -> None:
    key = data.draw(st.integers(0, 1000))
    count = data.draw(st.integers(1, min(rows, columns)))
    generator = torch.Generator().manual_seed(key)
    whole = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    found = randomised_truncation(whole, count, torch.Generator().manual_seed(key))
    assert torch.equal(found, randomised_truncation(whole, count, torch.Generator().manual_seed(key)))
    assert torch.linalg.matrix_rank(found, atol=1e-9) <= count
    values = torch.linalg.svdvals(whole)
    error = torch.linalg.matrix_norm(whole - found)
    assert values[count:].norm() - ROUNDING <= error <= values.norm() + ROUNDING
    low = randomised_truncation(whole, count, generator)
    torch.testing.assert_close(randomised_truncation(low, count, generator), low, rtol=0, atol=1e-9)


def test_interventions_at_several_places_nest() -> None:
    """Query and key of GPT-NeoX lie in one parameter; any order of leaving restores both."""
    model = tiny("gpt_neox")
    marks = fingerprint(model)
    query, key = Place("query", 1), Place("key", 1)
    with zeroed(model, query):
        alone = fingerprint(model)
        with truncated(model, key, 0.5), components_removed(model, OUT, [0]):
            assert not matrix(model, query).any()
            assert fingerprint(model) != alone
        assert fingerprint(model) == alone
    assert fingerprint(model) == marks
    first, second = zeroed(model, query), zeroed(model, key)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not matrix(model, key).any()
    second.__exit__(None, None, None)
    assert fingerprint(model) == marks
    with ExitStack() as stack:
        for place in model.roles.places():
            stack.enter_context(zeroed(model, place))
        assert not any(matrix(model, place).any() for place in model.roles.places())
    assert fingerprint(model) == marks


def test_a_place_is_changed_once_at_a_time() -> None:
    """So a decomposition is always one of the model's own matrix."""
    model = tiny("opt")
    known = Decompositions(model)
    answer = "place is 'feed_forward_out 1'; it is changed already, so this change must wait for the end of that one."
    with zeroed(model, OUT):
        for again in (lambda: known.of(OUT), lambda: zeroed(model, OUT).__enter__(),
                      lambda: truncated(model, OUT, 1.0).__enter__()):  # fmt: skip
            with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
                again()
        assert not matrix(model, OUT).any()
    with truncated(model, OUT, 0.5, known):
        pass


def test_a_new_matrix_may_lie_in_the_old_one() -> None:
    model = tiny("gptj")
    square = Place("query", 0)
    whole = matrix(model, square).clone()
    with edited(model, square, matrix(model, square).mT):
        assert torch.equal(matrix(model, square), whole.mT)
    with edited(model, square, lambda one: one[:1].expand_as(one)):
        assert torch.equal(matrix(model, square), whole[:1].expand_as(whole))
    assert torch.equal(matrix(model, square), whole)
    with edited(model, square, (2 * whole).requires_grad_()):
        assert not view(model, square).requires_grad
        assert torch.equal(matrix(model, square), 2 * whole)
    with edited(model, square, torch.eye(12, dtype=torch.int64)):
        assert torch.equal(matrix(model, square), torch.eye(12).double())


@pytest.mark.parametrize("role", ["embedding", "unembedding"])
def test_tied_embeddings_are_refused_and_untied_ones_are_changed_alone(role: str) -> None:
    for family in ("gpt2", "opt"):
        model = tiny(family)
        assert model.is_tied
        marks = fingerprint(model)
        answer = f"place is '{role}'; embedding and unembedding of this model are one matrix, so it must be another place."
        with pytest.raises(ValueError, match=f"^{answer}$"), zeroed(model, Place(role)):
            pass
        assert fingerprint(model) == marks
        assert torch.equal(matrix(model, Place("embedding")), matrix(model, Place("unembedding")))
        untied = tiny(family, tie_word_embeddings=False)
        assert not untied.is_tied
        other = Place("embedding" if role == "unembedding" else "unembedding")
        kept = matrix(untied, other).clone()
        with zeroed(untied, Place(role)):
            assert torch.equal(matrix(untied, other), kept)
            assert not matrix(untied, Place(role)).any()
    assert tiny("llama", tie_word_embeddings=True).is_tied


@pytest.fixture
def few_objects() -> Iterator[None]:
    """The collector forgets what there is, so that it finds new tensors fast."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def living() -> dict[int, int]:
    """Bytes of every piece of memory that a new tensor holds now, by its address."""
    gc.collect()
    found = [
        one.untyped_storage() for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)
    ]
    return {one.data_ptr(): one.nbytes() for one in found}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", [OUT, Place("query", 0)], ids=str)
@pytest.mark.usefixtures("few_objects")
def test_one_copy_of_one_matrix_is_kept_and_nothing_else(way: str, place: Place) -> None:
    model = tiny("gpt_neox")
    size = matrix(model, place).nbytes
    last_log_probabilities(model, PROMPTS)  # what the library keeps for good, it makes here
    before = living()
    with WAYS[way](model, place):
        inside = living()
        new = [size for address, size in inside.items() if address not in before]
        assert new == [size]
        last_log_probabilities(model, PROMPTS)
    assert living() == before


@pytest.mark.parametrize("kept", [1, 2, None])
@pytest.mark.usefixtures("few_objects")
def test_decompositions_are_let_go_of(kept: int | None) -> None:
    """With all kept there are three tensors a matrix (its gathered copy apart); else those of `kept` matrices at most."""
    model = tiny("gptj")
    before = living()
    known = Decompositions(model, kept=kept)
    places = model.roles.places(layers=[0, 1])
    sizes = []
    for place in places:
        spectrum = known.of(place)
        sizes.append(sum(one.nbytes for one in (spectrum.left, spectrum.singular_values, spectrum.right)))
        del spectrum
        new = sum(size for address, size in living().items() if address not in before)
        # SVD returns its factors in memory of its own; a transposed one keeps no other alive.
        assert new == sum(sizes if kept is None else sizes[-kept:])


@pytest.mark.parametrize(
    ("act", "answer"),
    [
        (lambda m: zeroed(m, Place("feed_forward_out", 2)), "layer is 2; it must be an integer from 0 to 1."),
        (lambda m: zeroed(m, Place("feed_forward_out", -1)), "layer is -1; it must be an integer from 0 to 1."),
        (lambda m: zeroed(m, Place("gate", 0)), "role is 'gate'; it must be one of embedding, positions, unembedding, query, "
         "key, value, attention_output, feed_forward_in, feed_forward_out, value_output, key_query."),
        (lambda m: truncated(m, OUT, 1.5), "rank_fraction is 1.5; it must be in [0, 1]."),
        (lambda m: truncated(m, OUT, -0.1), "rank_fraction is -0.1; it must be in [0, 1]."),
        (lambda m: truncated(m, OUT, float("nan")), "rank_fraction is nan; it must be in [0, 1]."),
        (lambda m: truncated(m, OUT, 0.5, method="fast"), "method is 'fast'; it must be one of exact, randomised."),
        (lambda m: truncated(m, OUT, 0.5, method="randomised"), "generator is None; the randomised method must have one."),
        (lambda m: truncated(m, OUT, 0.5, Decompositions(tiny("gpt2"))), "known are decompositions of another model; they must "
         "be of the one that is changed."),
        (lambda m: components_removed(m, OUT, [12]), "components are [12]; each must be an integer from 0 to 11."),
        (lambda m: components_removed(m, OUT, [-1]), "components are [-1]; each must be an integer from 0 to 11."),
        (lambda m: components_removed(m, Place("positions"), []), "place is 'positions'; the model turns queries and keys by "
         "their position, and has no position embedding."),
        (lambda m: edited(m, OUT, torch.zeros(20, 12)), "new matrix at 'feed_forward_out 1' has shape (20, 12); it must be "
         "(12, 20)."),
        (lambda m: edited(m, OUT, lambda _: 0), "new matrix at 'feed_forward_out 1' has shape int; it must be (12, 20)."),
        (lambda m: edited(m, OUT, lambda one: one > 0), "new matrix at 'feed_forward_out 1' has type torch.bool; it must be "
         "real numbers."),
        (lambda m: edited(m, OUT, lambda one: one * 1j), "new matrix at 'feed_forward_out 1' has type torch.complex128; it "
         "must be real numbers."),
        (lambda m: Decompositions(m, "float16"), "precision is 'float16'; it must be one of float64, float32."),
        (lambda m: Decompositions(m, kept=0), "kept is 0; it must be a positive integer, or None for all."),
    ],
)  # fmt: skip
def test_bad_input_is_told_and_nothing_is_modified(act: Any, answer: str) -> None:
    model = tiny("gpt_neox")
    marks = fingerprint(model)
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"), act(model):
        pytest.fail("the block was entered")
    assert fingerprint(model) == marks
    assert not model.changed


def test_a_matrix_that_is_not_finite_is_told() -> None:
    model = tiny("gpt_neox")
    view(model, OUT)[0, 0, 0] = torch.nan
    with pytest.raises(
        ValueError, match=r"^matrix at 'feed_forward_out 1' has entries that are not finite\.$"
    ):
        Decompositions(model).of(OUT)
