"""The decoder's weights: their initialisation, roles and products, matrices added to them, and surgery."""

import dataclasses
import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sims.interventions.surgery import truncated, without_feed_forward, zeroed
from sims.models.decoder import DecoderArchitecture, initialise_decoder
from sims.roles import Place, matrix
from sims.statistics import z_threshold
from tests.sims.small_decoders import (
    PRODUCTS,
    architectures,
    check_against_loops,
    close,
    drawn,
    tokens_of,
)
from tests.sims.small_transformers import fingerprint

BASE = DecoderArchitecture(7, 6, 4, 2, 2, 6, 5)


@settings(max_examples=40)
@given(architectures(), st.booleans())
def test_products_of_heads_against_loops(architecture: DecoderArchitecture, added: bool) -> None:
    """Query transposed times key, output times value, of a head's rows; what is added is shared out among the heads' outputs."""
    model = drawn(architecture, (0, 1), added)
    size = architecture.attention_width // architecture.n_heads
    d = architecture.width
    for seed, layer, head in itertools.product(
        range(2), range(architecture.n_layers), range(architecture.n_heads)
    ):
        weight = {
            role: matrix(model, role, layer)[seed] for role in ("query", "key", "value", "attention_output")
        }
        scores, moved = np.zeros((d, d)), np.zeros((d, d))
        for row in range(head * size, (head + 1) * size):
            scores += np.outer(weight["query"][row], weight["key"][row])
            moved += np.outer(weight["attention_output"][:, row], weight["value"][row])
        for product, expected, share in (
            ("key_query", scores, 1),
            ("value_output", moved, architecture.n_heads),
        ):
            if added:
                factor = model.weights[f"{product}_factor"][seed, layer]
                expected = (
                    expected + (factor * model.weights[f"{product}_added.{layer}"][seed] / share).numpy()
                )
            close(getattr(model, product)(layer, head)[seed], expected)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
def test_logits_written_with_the_products_alone(added: bool, heads: int) -> None:
    """Without norms and feed-forward: x ← x + Σ_heads softmax(x W_qk xᵀ/√size) x W_voᵀ, in rows of x."""
    architecture = dataclasses.replace(BASE, normalisation="none", feed_forward_width=0, n_heads=heads)
    model, tokens = drawn(architecture, (0,), added), tokens_of(architecture, 1, 1, 6)
    x = (model.weights["embedding"][0][tokens[0, 0]] + model.weights["positions"][0]).numpy()
    for layer in range(2):
        new = x
        for head in range(heads):
            scores = np.exp(x @ model.key_query(layer, head)[0].numpy() @ x.T / math.sqrt(6 // heads))
            scores = np.tril(scores) / np.tril(scores).sum(1, keepdims=True)
            new = new + scores @ x @ model.value_output(layer, head)[0].numpy().T
        x = new
    close(model.logits(tokens)[0, 0], x @ model.weights["unembedding"][0].numpy().T)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("layer", [0, 1])
def test_an_added_matrix_changes_what_it_names_and_nothing_else(
    first: bool, product: str, layer: int
) -> None:
    """To a model without added matrices, and to one that has others."""
    model = drawn(BASE, (0, 1), added=not first)
    before = fingerprint(model)
    new = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    changed = model.with_added(product, layer, new)
    assert fingerprint(model) == before
    assert changed.architecture == dataclasses.replace(BASE, has_added=True)
    found = changed.added(product, layer)
    assert found is not None
    assert torch.equal(found, new)
    for other, where in itertools.product(PRODUCTS, range(2)):
        if (other, where) != (product, layer):
            old, kept = model.added(other, where), changed.added(other, where)
            assert kept is not None
            assert torch.equal(kept, torch.zeros_like(kept) if old is None else old)
    for name, one in model.weights.items():
        named = name in (f"{product}_added.{layer}", f"{product}_factor")
        assert (changed.weights[name] is one) == (not named)
    tokens = tokens_of(BASE, 2, 2, 5)
    check_against_loops(changed, tokens)
    assert float((changed.logits(tokens) - model.logits(tokens)).abs().max()) > 1e-3


@settings(max_examples=40)
@given(architectures(), st.booleans())
def test_an_added_zero_changes_nothing(architecture: DecoderArchitecture, last: bool) -> None:
    model = drawn(architecture, (0, 1))
    tokens = tokens_of(architecture, 2, 2, architecture.context_length)
    zero = torch.zeros(2, architecture.width, architecture.width, dtype=torch.float64)
    assert model.added("key_query", 0) is None
    for product, layer in itertools.product(PRODUCTS, range(architecture.n_layers)):
        changed = model.with_added(product, layer, zero)
        assert torch.equal(changed.logits(tokens, last), model.logits(tokens, last))


def test_factors_scale_what_is_added_to_their_layer() -> None:
    model = drawn(BASE, (0, 1), added=True)
    for product, layer in itertools.product(PRODUCTS, range(2)):
        factors = model.weights[f"{product}_factor"].clone()
        factors[:, layer] *= torch.tensor([3.0, -2.0])
        changed = model.with_weights({f"{product}_factor": factors})
        for where in range(2):
            scale = torch.tensor([3.0, -2.0]) if where == layer else torch.ones(2)
            old, new = model.added(product, where), changed.added(product, where)
            assert old is not None
            assert new is not None
            close(new, scale[:, None, None].double() * old)


@settings(max_examples=40)
@given(architectures())
def test_every_role_is_there_or_told_why_not(architecture: DecoderArchitecture) -> None:
    model = initialise_decoder(architecture, "test", (0, 1, 2))
    roles = model.roles
    norms = {f"{name}.{part}" for name in architecture.norms for part in ("gain", "bias")}
    assert {roles.name(*place) for place in roles.places()} | norms == set(model.weights)
    assert roles.n_layers == architecture.n_layers
    for place, shape in architecture.shapes.items():
        assert model.weights[roles.name(*place)].shape == (3, *shape)
    for name in norms:
        assert model.weights[name].shape == (3, architecture.width)
    assert roles.has("unembedding") == (architecture.output == "trained")
    if architecture.output == "tied":
        answer = r"^place is 'unembedding'; the unembedding of this model is its embedding\.$"
        with pytest.raises(ValueError, match=answer):
            roles.name("unembedding")
        assert model.unembedding is model.weights["embedding"]
    for layer in range(architecture.n_layers):
        assert roles.has("value_output", layer)
        for role in ("query", "key", "value", "attention_output"):
            assert roles.name(role, layer) == f"{role}.{layer}"
        for role in ("feed_forward_in", "feed_forward_out"):
            if architecture.feed_forward_width:
                assert roles.name(role, layer) == f"{role}.{layer}"
            else:
                answer = rf"^place is '{role} {layer}'; layer {layer} has no feed-forward\.$"
                with pytest.raises(ValueError, match=answer):
                    roles.name(role, layer)
    kinds = 0 if architecture.normalisation == "none" else 1 + bool(architecture.feed_forward_width)
    final = architecture.normalisation == "pre"
    assert len(architecture.norms) == kinds * architecture.n_layers + final
    assert ("final_norm" in architecture.norms) == final


@settings(max_examples=40)
@given(architectures(), st.data())
def test_surgery_on_every_place(architecture: DecoderArchitecture, data: st.DataObject) -> None:
    """Zeroed and truncated, against the loop with the weight changed by hand."""
    model = drawn(architecture, (0, 1))
    before = fingerprint(model)
    place = data.draw(st.sampled_from(model.roles.places()))
    tokens = tokens_of(architecture, 2, 1, architecture.context_length)
    name = model.roles.name(*place)
    gone = zeroed(model, *place)
    assert not gone.weights[name].any()
    half = truncated(model, *place, 0.5)
    for seed, one in enumerate(model.weights[name].numpy()):
        left, values, right = np.linalg.svd(one, full_matrices=False)
        count = len(values) // 2
        close(half.weights[name][seed], (left[:, :count] * values[:count]) @ right[:count])
    for changed in (gone, half):
        assert all((changed.weights[other] is one) == (other != name) for other, one in model.weights.items())
        check_against_loops(changed, tokens)
    assert fingerprint(model) == before


@settings(max_examples=40)
@given(architectures(n_heads=1), st.floats(0, 1))
def test_the_product_of_values_and_outputs_is_truncated_in_one_head(
    architecture: DecoderArchitecture, fraction: float
) -> None:
    model = drawn(architecture, (0, 1))
    layer = architecture.n_layers - 1
    cut = truncated(model, "value_output", layer, fraction)
    count = math.floor(fraction * architecture.width + 1e-9)
    for seed, one in enumerate(model.value_output(layer).numpy()):
        left, values, right = np.linalg.svd(one)
        close(cut.value_output(layer)[seed], (left[:, :count] * values[:count]) @ right[:count])


@settings(max_examples=40)
@given(architectures(), st.integers(0, 2))
def test_a_layer_without_its_feed_forward(architecture: DecoderArchitecture, layer: int) -> None:
    layer %= architecture.n_layers
    model = drawn(architecture)
    changed = without_feed_forward(model, layer)
    if not architecture.feed_forward_width:
        assert changed is model
        return
    check_against_loops(changed, tokens_of(architecture, 1, 1, architecture.context_length))
    assert not changed.weights[f"feed_forward_out.{layer}"].any()


@pytest.mark.parametrize("exponent", [0.5, 0.3, 1.0])
def test_initial_weights_have_the_scale_of_their_fan_in(exponent: float) -> None:
    """Mean, variance and fourth moment of each weight, at a false-alarm rate of 1e-6 for all together; seeds 0 to 39."""
    architecture = DecoderArchitecture(30, 20, 16, 2, 2, 12, 10, "pre", init_exponent=exponent)
    model = initialise_decoder(architecture, "test", range(40))
    threshold = z_threshold(3 * len(architecture.shapes))
    columns = {"query": 16, "key": 16, "value": 16, "attention_output": 12}
    columns |= {"feed_forward_in": 16, "feed_forward_out": 10, "unembedding": 16}
    for place in architecture.shapes:
        weight = model.weights[model.roles.name(*place)]
        assert weight.dtype == torch.float32
        assert weight.is_contiguous()
        fan_in = {"embedding": 30, "positions": 20, **columns}[place.role]
        entries = weight.double().numpy() * fan_in**exponent  # standard normal: moments 1, 3, 15, 105
        root = math.sqrt(entries.size)
        z = [
            entries.mean() * root,
            (np.mean(entries**2) - 1) / math.sqrt(2) * root,
            (np.mean(entries**4) - 3) / math.sqrt(96) * root,
        ]
        assert max(map(abs, z)) <= threshold, (place, z, entries.size)
    for name in architecture.norms:
        assert torch.equal(model.weights[f"{name}.gain"], torch.ones(40, 16))
        assert torch.equal(model.weights[f"{name}.bias"], torch.zeros(40, 16))


@settings(max_examples=40)
@given(architectures(), architectures(), st.integers(0, 99))
def test_models_share_the_streams_of_equal_weights(
    one: DecoderArchitecture, two: DecoderArchitecture, seed: int
) -> None:
    """Whatever their norms, heads, layers, outputs and exponents are; another exponent is another scale of the same draws."""
    first, second = (initialise_decoder(each, "test", (seed,), dtype=torch.float64) for each in (one, two))
    for place in one.shapes.keys() & two.shapes.keys():
        shape = one.shapes[place]
        if shape == two.shapes[place]:
            name = one.roles.names[place]
            fan_in = shape[place.role not in ("embedding", "positions")]
            drawings = [
                model.weights[name] * fan_in**model.architecture.init_exponent for model in (first, second)
            ]
            # Scaled and scaled back: two roundings.
            torch.testing.assert_close(*drawings, rtol=1e-15, atol=0)
            if one.init_exponent == two.init_exponent:
                assert torch.equal(first.weights[name], second.weights[name])


def test_a_weights_numbers_rest_on_stream_name_and_seed_alone() -> None:
    architecture = DecoderArchitecture(7, 6, 4, 2, 2, 4, 4)
    model = initialise_decoder(architecture, "test", (3, 5), dtype=torch.float64)
    names = [model.roles.name(*place) for place in model.roles.places()]
    for name in names:
        one = model.weights[name]
        for seeds, expected in (((3, 5), one), ((5,), one[1:]), ((5, 3), one.flip(0))):
            again = initialise_decoder(architecture, "test", seeds, dtype=torch.float64)
            assert torch.equal(again.weights[name], expected)
        assert not torch.equal(one[0], one[1])
        elsewhere = initialise_decoder(architecture, "another", (3, 5), dtype=torch.float64).weights[name]
        assert not torch.equal(elsewhere, one)
        assert torch.equal(initialise_decoder(architecture, "test", (3, 5)).weights[name], one.float())
    same_shape = [model.weights[name] for name in names if model.weights[name].shape == (2, 4, 4)]
    assert len(same_shape) == 12
    for a, b in itertools.combinations(same_shape, 2):
        assert not torch.equal(a, b)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    initialise_decoder(architecture, "test", (0,))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("head", [2, -1, 0.0, True])
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_head_that_is_not_there_is_told(head: Any, product: str) -> None:
    with pytest.raises(ValueError, match=rf"^head is {head}; it must be an integer from 0 to 1\.$"):
        getattr(drawn(BASE), product)(0, head)


def test_no_seed_and_added_matrices_of_a_fresh_model_are_told() -> None:
    with pytest.raises(ValueError, match=r"^seeds is empty; a model needs at least one\.$"):
        initialise_decoder(BASE, "test", ())
    answer = "has_added is True; a fresh decoder has no added matrices, with_added gives it some."
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        initialise_decoder(dataclasses.replace(BASE, has_added=True), "test", (0,))


@pytest.mark.parametrize("added", [False, True])
def test_wrong_additions_are_told(added: bool) -> None:
    model, new = drawn(BASE, (0, 1), added), torch.zeros(2, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^layer is 2; it must be an integer from 0 to 1\.$"):
        model.with_added("key_query", 2, new)
    with pytest.raises(
        ValueError, match=r"^product is 'query'; it must be one of key_query, value_output\.$"
    ):
        model.with_added("query", 0, new)
    answer = r"^weight key_query_added.0 has shape \(4, 5\); it must be \(4, 4\)\.$"
    with pytest.raises(ValueError, match=answer):
        model.with_added("key_query", 0, new.new_zeros(2, 4, 5))
    with pytest.raises(ValueError, match=r"^weights are stacks of different heights;"):
        model.with_added("key_query", 0, new[:1])


def test_the_architecture_names_the_place_of_each_weight() -> None:
    architecture = DecoderArchitecture(5, 4, 2, 2, 3, 6, 7)
    assert architecture.shapes[Place("key", 1)] == (6, 2)
    assert architecture.shapes[Place("attention_output", 0)] == (2, 6)
    assert architecture.shapes[Place("feed_forward_in", 0)] == (7, 2)
    assert architecture.shapes[Place("feed_forward_out", 0)] == (2, 7)
    assert architecture.norms == (
        "attention_norm.0",
        "feed_forward_norm.0",
        "attention_norm.1",
        "feed_forward_norm.1",
    )
