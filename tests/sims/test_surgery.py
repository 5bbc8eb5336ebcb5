"""Surgery by role: against numpy's own SVD, against loops with explicit products, and that no operation touches its model."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.interventions.low_rank import Spectrum, kept_rank
from sims.interventions.surgery import (
    randomised,
    spectrum,
    truncated,
    truncations,
    without_components,
    without_feed_forward,
    zeroed,
)
from sims.models import one_layer_recall
from sims.models.transformer import Architecture, Transformer
from sims.roles import ROLES, Place, matrix
from sims.statistics import z_threshold
from tests.sims.small_transformers import architectures, by_loop, drawn, fingerprint, tokens_of
from theory.problems import NoisyRecall

ROUNDING = 1e-12
"""float64 SVD and product of matrices of norm below 30: a few hundred roundings of 1.1e-16."""
ARCHITECTURE = Architecture(5, 4, 6, ("relu", "linear"), query="trained", hidden_multiplier=2)
FRACTIONS = (0.0, 0.2, 0.5, 0.7, 1.0)


def generators(*keys: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(key) for key in keys]


def places_of(model: Transformer) -> list[Place]:
    """All places, and the products."""
    return [
        *model.roles.places(),
        *(Place("value_output", layer) for layer in range(model.architecture.n_layers)),
    ]


def by_numpy(whole: torch.Tensor, keep: Callable[[int], bool]) -> np.ndarray:
    """Each seed's matrix from the components that are kept, summed one by one."""
    found = np.zeros(whole.shape)
    for seed, one in enumerate(whole.detach().double().numpy()):
        left, values, right = np.linalg.svd(one, full_matrices=False)
        for place, value in enumerate(values):
            if keep(place):
                found[seed] += value * np.outer(left[:, place], right[place])
    return found


def names_at(model: Transformer, place: Place) -> set[str]:
    factors = ("attention_output", "value") if place.role == "value_output" else (place.role,)
    return {model.roles.name(role, place.layer) for role in factors}


def check_only(model: Transformer, changed: Transformer, place: Place) -> None:
    """All weights but those at a place are the same objects, in the same architecture."""
    assert changed.architecture is model.architecture
    for name, one in model.weights.items():
        assert (changed.weights[name] is one) == (name not in names_at(model, place))


@given(architectures(max_layers=2), st.data())
def test_truncation_against_numpy(architecture: Architecture, data: st.DataObject) -> None:
    """Each seed by its own SVD, at any place and fraction."""
    model = drawn(architecture, (0, 1, 2))
    before = fingerprint(model)
    place = data.draw(st.sampled_from(places_of(model)))
    fraction = data.draw(st.floats(0, 1))
    whole = matrix(model, *place)
    count = math.floor(fraction * min(whole.shape[1:]) + 1e-9)
    changed = truncated(model, *place, fraction)
    if count == min(whole.shape[1:]):
        assert changed is model
    else:
        check_only(model, changed, place)
    np.testing.assert_allclose(
        matrix(changed, *place), by_numpy(whole, lambda one: one < count), rtol=0, atol=ROUNDING
    )
    assert fingerprint(model) == before


@pytest.mark.parametrize("place", places_of(drawn(ARCHITECTURE)), ids=str)
def test_the_ends_of_truncation(place: Place) -> None:
    model = drawn(ARCHITECTURE, (0, 1))
    assert truncated(model, *place, 1.0) is model
    assert truncated(model, *place, 1.0, spectrum(model, *place)) is model
    nothing, zero = truncated(model, *place, 0.0), zeroed(model, *place)
    for changed in (nothing, zero):
        check_only(model, changed, place)
        assert not matrix(changed, *place).any()
    assert fingerprint(nothing) == fingerprint(zero)
    below = truncated(model, *place, 0.999)
    assert (
        torch.linalg.matrix_rank(matrix(below, *place)).tolist()
        == [kept_rank(0.999, matrix(model, *place).shape)] * 2
    )


@given(architectures(max_layers=2), st.data())
def test_one_spectrum_serves_all_cuts(architecture: Architecture, data: st.DataObject) -> None:
    model = drawn(architecture, (0, 1))
    place = data.draw(st.sampled_from(places_of(model)))
    known = spectrum(model, *place)
    for fraction in FRACTIONS:
        fresh, again = truncated(model, *place, fraction), truncated(model, *place, fraction, known)
        assert fingerprint(fresh) == fingerprint(again)
    fresh, again = (without_components(model, *place, [0], one) for one in (None, known))
    assert fingerprint(fresh) == fingerprint(again)


def test_one_spectrum_is_one_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **kwargs: calls.append(1) or svd(*args, **kwargs))
    model = drawn(ARCHITECTURE)
    known = spectrum(model, "value_output", 1)
    assert not calls
    for fraction in FRACTIONS:
        truncated(model, "value_output", 1, fraction, known)
        without_components(model, "value_output", 1, [1, 2], known)
    assert len(calls) == 1


@given(architectures(max_layers=2), st.data())
def test_a_whole_axis_of_truncations_is_each_of_them(architecture: Architecture, data: st.DataObject) -> None:
    """With the spectrum at hand or not; at fraction 1 the model itself, and the model is left as it was."""
    model = drawn(architecture, (0, 1))
    before = fingerprint(model)
    place = data.draw(st.sampled_from(places_of(model)))
    fractions = [*sorted(data.draw(st.lists(st.floats(0, 1), max_size=5))), 1.0]
    known = spectrum(model, *place)
    for given_spectrum in (known, None):
        found = list(truncations(model, *place, fractions, given_spectrum))
        assert len(found) == len(fractions)
        for fraction, changed in zip(fractions, found, strict=True):
            expected = truncated(model, *place, fraction, known)
            assert (changed is model) == (expected is model)
            if changed is not model:
                check_only(model, changed, place)
            np.testing.assert_allclose(
                matrix(changed, *place), matrix(expected, *place), rtol=0, atol=ROUNDING
            )
        assert found[-1] is model
    assert fingerprint(model) == before


def test_an_axis_of_truncations_is_one_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **kwargs: calls.append(1) or svd(*args, **kwargs))
    model = drawn(ARCHITECTURE)
    assert len(list(truncations(model, "value_output", 1, FRACTIONS))) == len(FRACTIONS)
    assert len(calls) == 1


def test_bad_axes_of_truncations_are_told() -> None:
    model = drawn(ARCHITECTURE)
    for fractions, answer in (
        ((0.9, 0.2), r"^counts are \[5, 1\]; they must rise\.$"),
        ((0.1, 1.1), r"^rank_fraction is 1\.1; it must be in \[0, 1\]\.$"),
    ):
        with pytest.raises(ValueError, match=answer):
            list(truncations(model, "key", 0, fractions))


@given(architectures(), st.data())
def test_a_model_without_a_feed_forward_of_its_own(architecture: Architecture, data: st.DataObject) -> None:
    """Against a model whose block never had one; of a block that has none, the model itself."""
    model = drawn(architecture, (0, 1))
    before = fingerprint(model)
    layer = data.draw(st.integers(0, architecture.n_layers - 1))
    changed = without_feed_forward(model, layer)
    kinds = list(architecture.feed_forward)
    assert (changed is model) == (kinds[layer] == "none")
    if changed is not model:
        check_only(model, changed, Place("feed_forward_out", layer))
    kinds[layer] = "none"
    bare = dataclasses.replace(architecture, feed_forward=tuple(kinds))
    never = Transformer(bare, {name: model.weights[name] for name in bare.roles.names.values()})
    tokens = tokens_of(architecture, 2, 3, architecture.context_length)
    assert torch.equal(changed.logits(tokens), never.logits(tokens))  # exact zeros are added, or nothing
    assert fingerprint(model) == before


def test_a_feed_forward_of_no_layer_is_told() -> None:
    with pytest.raises(ValueError, match=r"^layer is 2; it must be an integer from 0 to 1\.$"):
        without_feed_forward(drawn(ARCHITECTURE), 2)


@given(architectures(max_layers=2), st.data())
def test_component_removal_against_numpy(architecture: Architecture, data: st.DataObject) -> None:
    model = drawn(architecture, (0, 1))
    before = fingerprint(model)
    place = data.draw(st.sampled_from(places_of(model)))
    whole = matrix(model, *place)
    dropped = data.draw(st.lists(st.integers(0, min(whole.shape[1:]) - 1), max_size=4))
    changed = without_components(model, *place, dropped)
    check_only(model, changed, place)
    expected = by_numpy(whole, lambda one: one not in dropped)
    np.testing.assert_allclose(matrix(changed, *place), expected, rtol=0, atol=ROUNDING)
    assert fingerprint(model) == before


def test_each_seed_loses_its_own_components() -> None:
    model = drawn(ARCHITECTURE, (0, 1))
    dropped = torch.tensor([[0, 2], [5, 1]])
    whole = matrix(model, "value", 1)
    found = matrix(without_components(model, "value", 1, dropped), "value", 1)
    for seed in range(2):
        expected = by_numpy(whole[seed, None], lambda one, seed=seed: one not in dropped[seed].tolist())
        np.testing.assert_allclose(found[seed], expected[0], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("place", places_of(drawn(ARCHITECTURE)), ids=str)
def test_a_random_matrix_has_the_norm_of_the_old_and_each_seeds_draws(place: Place) -> None:
    model = drawn(ARCHITECTURE, (0, 1, 2))
    before = fingerprint(model)
    changed = randomised(model, *place, generators(7, 8, 9))
    check_only(model, changed, place)
    old, new = matrix(model, *place), matrix(changed, *place)
    # A norm of at most 60 entries, and one scaling: some ten roundings of 1.1e-16 (one product more by the identity).
    torch.testing.assert_close(
        torch.linalg.matrix_norm(new), torch.linalg.matrix_norm(old), rtol=1e-14, atol=0
    )
    assert fingerprint(randomised(model, *place, generators(7, 8, 9))) == fingerprint(changed)
    for seed in range(3):
        direction = torch.randn(old.shape[1:], generator=generators(7, 8, 9)[seed], dtype=torch.float64)
        cosine = (direction * new[seed]).sum() / direction.norm() / new[seed].norm()
        assert float(cosine) == pytest.approx(1, abs=1e-14)  # as above
    other = matrix(randomised(model, *place, generators(7, 1, 9)), *place)
    assert torch.equal(other[[0, 2]], new[[0, 2]])
    assert not torch.equal(other[1], new[1])
    assert fingerprint(model) == before


def test_a_random_matrix_is_gaussian() -> None:
    """Mean and fourth moment of 40 matrices of 48 × 48, each scaled to mean square 1; false-alarm rate 1e-6 together."""
    model = drawn(Architecture(2, 1, 48, ("none",), (True,)), range(40))
    new = matrix(randomised(model, "value", 0, generators(*range(100, 140))), "value", 0).numpy()
    entries = new / np.sqrt(np.mean(new**2, axis=(1, 2), keepdims=True))
    root = math.sqrt(entries.size)
    # With its mean square fixed, the fourth moment of n entries has the mean 3 − 6/n, here −0.003, and the variance 24/n.
    z = [entries.mean() * root, (np.mean(entries**4) - 3 + 6 / 48**2) / math.sqrt(24) * root]
    assert max(map(abs, z)) <= z_threshold(2), (z, entries.size)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("layer", [0, 1])
def test_product_surgery_is_the_truncated_product_in_the_pass(layer: int, fraction: float) -> None:
    model = drawn(ARCHITECTURE, (0, 1))
    tokens = tokens_of(ARCHITECTURE, 2, 3, 4)
    cut = truncated(model, "value_output", layer, fraction)
    logits = cut.logits(tokens)
    count = math.floor(fraction * 6 + 1e-9)
    for seed in range(2):
        output, value = (
            model.weights[f"{role}.{layer}"][seed].numpy() for role in ("attention_output", "value")
        )
        left, values, right = np.linalg.svd(output @ value)
        product = (left[:, :count] * values[:count]) @ right[:count]
        for place in range(3):
            expected, _ = by_loop(model, seed, tokens[seed, place].tolist(), {layer: product})
            # Logits below 100, and an SVD on the way: some hundred roundings of 1.1e-16 each, relative to 100.
            np.testing.assert_allclose(logits[seed, place], expected, rtol=0, atol=10 * ROUNDING)
    if fraction < 1:
        assert float((logits - model.logits(tokens)).abs().max()) > 1e-3
        apart = truncated(truncated(model, "value", layer, fraction), "attention_output", layer, fraction)
        if count:
            assert float((logits - apart.logits(tokens)).abs().max()) > 1e-3


def test_places_are_cut_one_after_the_other() -> None:
    model, tokens = drawn(ARCHITECTURE, (0, 1)), tokens_of(ARCHITECTURE, 2, 3, 4)
    one = truncated(zeroed(model, "feed_forward_out", 0), "value_output", 1, 0.5)
    two = zeroed(truncated(model, "value_output", 1, 0.5), "feed_forward_out", 0)
    assert fingerprint(one) == fingerprint(two)
    bare = Architecture(5, 4, 6, ("none", "linear"), query="trained", hidden_multiplier=2)
    without = Transformer(bare, {name: two.weights[name] for name in bare.roles.names.values()})
    # Without a feed-forward, or with one that adds exact zeros.
    assert torch.equal(one.logits(tokens), without.logits(tokens))
    twice = truncated(truncated(model, "key", 0, 0.5), "key", 0, 0.5)
    np.testing.assert_allclose(
        matrix(twice, "key", 0), matrix(truncated(model, "key", 0, 0.5), "key", 0), rtol=0, atol=ROUNDING
    )


def test_residual_removal_leaves_the_weights() -> None:
    model, tokens = drawn(ARCHITECTURE, (0, 1)), tokens_of(ARCHITECTURE, 2, 3, 4)
    before = fingerprint(model)
    cut = truncated(model, "feed_forward_out", 1, 0.5).without_residual(1)
    assert cut.architecture.residual == (True, False)
    for seed in range(2):
        expected, _ = by_loop(cut, seed, tokens[seed, 0].tolist())
        np.testing.assert_allclose(cut.logits(tokens)[seed, 0], expected, rtol=0, atol=ROUNDING)
    other = truncated(model.without_residual(1), "feed_forward_out", 1, 0.5)
    assert fingerprint(other) == fingerprint(cut)
    assert other.architecture == cut.architecture
    assert fingerprint(model) == before


OPERATIONS: dict[str, Callable[[Any, str, int | None], Any]] = {
    "truncated": lambda model, role, layer: truncated(model, role, layer, 0.5),
    "without_components": lambda model, role, layer: without_components(model, role, layer, [0]),
    "zeroed": zeroed,
    "randomised": lambda model, role, layer: randomised(model, role, layer, generators(1, 2)),
    "spectrum": spectrum,
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_in_training_is_left_as_it_was(name: str, dtype: torch.dtype) -> None:
    """Weights with gradients: neither they nor the graph are touched, what is new is free of it, and has the old type."""
    model = drawn(ARCHITECTURE, (0, 1))
    leaves = {key: one.to(dtype).requires_grad_() for key, one in model.weights.items()}
    model = model.with_weights(leaves)
    before = fingerprint(model)
    for place in places_of(model):
        changed = OPERATIONS[name](model, *place)
        assert fingerprint(model) == before
        for key, one in model.weights.items():
            assert one is leaves[key]
            assert one.grad is None
        if name != "spectrum":
            for key in names_at(model, place):
                assert changed.weights[key].dtype == dtype
                assert not changed.weights[key].requires_grad
            with torch.no_grad():
                for key in names_at(model, place):
                    changed.weights[key].add_(1)  # memory of its own
            assert fingerprint(model) == before


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("role", "layer", "answer"),
    [
        ("mlp", 0, f"role is 'mlp'; it must be one of {', '.join(ROLES)}."),
        ("key", 2, "layer is 2; it must be an integer from 0 to 1."),
        ("value_output", 2, "layer is 2; it must be an integer from 0 to 1."),
        ("unembedding", 1, "layer is 1 with role 'unembedding'; it must be None, as it has no layer."),
        (
            "feed_forward_in",
            1,
            "place is 'feed_forward_in 1'; the linear feed-forward of block 1 has one matrix, feed_forward_out.",
        ),
        ("key_query", 0, "place is 'key_query 0'; this model has no such weight."),
    ],
)
def test_a_wrong_place_is_told_in_one_sentence(name: str, role: str, layer: int, answer: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        OPERATIONS[name](drawn(ARCHITECTURE, (0, 1)), role, layer)


@pytest.mark.parametrize("role", ["key", "value_output"])
@pytest.mark.parametrize("with_known", [True, False])
@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_a_wrong_fraction_is_told(role: str, with_known: bool, fraction: float) -> None:
    model = drawn(ARCHITECTURE)
    known = spectrum(model, role, 0) if with_known else None
    with pytest.raises(ValueError, match=rf"^rank_fraction is {fraction}; it must be in \[0, 1\]\.$"):
        truncated(model, role, 0, fraction, known)


def test_a_spectrum_of_elsewhere_is_told() -> None:
    """By its shape; one of the same shape cannot be told apart."""
    model = drawn(ARCHITECTURE)
    answer = re.escape("matrix for feed_forward_in 0 has shape (1, 6, 6); it must be (1, 12, 6).")
    with pytest.raises(ValueError, match=f"^{answer}$"):
        truncated(model, "feed_forward_in", 0, 0.5, spectrum(model, "key", 0))
    for fraction in (0.5, 1.0):
        for role, layer, start in (
            ("mlp", 0, "role is 'mlp'"),
            ("key", 5, "layer is 5"),
            ("value_output", 5, "layer is 5"),
            ("key_query", 0, "place is 'key_query 0'; this model has no such weight"),
        ):
            with pytest.raises(ValueError, match=f"^{start}"):
                truncated(model, role, layer, fraction, spectrum(model, "key", 0))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_generators_is_told(count: int) -> None:
    answer = f"generators has {count} entries; it must have 2, one a seed."
    with pytest.raises(ValueError, match=f"^{answer}$"):
        randomised(drawn(ARCHITECTURE, (0, 1)), "key", 0, generators(*range(count)))


def test_a_wrong_component_is_told() -> None:
    with pytest.raises(ValueError, match=r"^places are \[6\]; each must be an integer from 0 to 5\.$"):
        without_components(drawn(ARCHITECTURE), "key", 0, [6])


def one_layer(dtype: torch.dtype = torch.float64, **features: str) -> one_layer_recall.OneLayerRecall:
    """The one-layer model with weights N(0, 1); its unread columns are zero, as training leaves them."""
    model = one_layer_recall.build(NoisyRecall.theory_version(4, 6, 0.3), 3, dtype=dtype, **features)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in model.weights.values():
            one.normal_(generator=generator)
        if model.value_features == "current":
            model.value[..., model.vocabulary_size :] = 0
    return model


@pytest.mark.parametrize("features", ["current", "both"])
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_the_one_layer_model_is_cut_by_role_as_by_hand(features: str, fraction: float) -> None:
    model = one_layer(value_features=features)
    before = fingerprint(model)
    contexts = torch.randint(5, (3, 7, 6), generator=torch.Generator().manual_seed(1))
    cut = truncated(model, "value_output", 0, fraction)
    count = kept_rank(fraction, (5, 10))
    assert (cut is model) == (fraction == 1)
    by_hand = Spectrum(model.value).keep_top(count)
    assert torch.equal(cut.value, by_hand)
    assert torch.equal(cut.logits(contexts), model.logits(contexts, value=by_hand))
    assert cut.value_features == features
    assert cut.feed_forward is model.feed_forward
    assert cut.key_query is model.key_query
    if features == "current":
        # The way of the experiments: the SVD of the columns that are read, the rest beside it.
        block = Spectrum(model.value[..., :5]).keep_top(count)
        value = torch.cat([block, model.value[..., 5:]], -1)
        torch.testing.assert_close(
            cut.logits(contexts), model.logits(contexts, value=value), rtol=0, atol=ROUNDING
        )
    assert fingerprint(model) == before


def test_the_one_layer_models_places_are_what_its_logits_use() -> None:
    model = one_layer()
    contexts = torch.randint(5, (3, 7, 6), generator=torch.Generator().manual_seed(1))
    for role, part in (("feed_forward_out", "attention"), ("value_output", "feed_forward")):
        assert torch.equal(zeroed(model, role, 0).logits(contexts), model.logits(contexts, (part,)))
    even = zeroed(model, "key_query", 0).attention(contexts)
    assert torch.equal(even, torch.full((3, 7, 6), 1 / 6, dtype=torch.float64))
    answer = "place is 'value 0'; value and attention output are one matrix, value_output."
    with pytest.raises(ValueError, match=f"^{answer}$"):
        zeroed(model, "value", 0)
    with pytest.raises(ValueError, match=r"^layer is 1; it must be an integer from 0 to 0\.$"):
        zeroed(model, "value_output", 1)
