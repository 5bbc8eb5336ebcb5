"""The role table: every weight has a place and every place a weight, and a change of one changes nothing else."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.models import one_layer_recall
from sims.models.transformer import Architecture, Transformer
from sims.roles import (
    LAYER_ROLES,
    MODEL_ROLES,
    PRODUCTS,
    ROLES,
    Model,
    Place,
    RoleTable,
    exchanged,
    matrix,
    with_matrix,
)
from tests.sims.small_transformers import architectures, drawn, fingerprint
from theory.problems import NoisyRecall

PLACES = st.sampled_from(ROLES).flatmap(
    lambda role: st.builds(Place, st.just(role), st.none() if role in MODEL_ROLES else st.integers(0, 1000))
)


@dataclasses.dataclass(frozen=True)
class Factored:
    """A model whose product of value and output goes through another width."""

    weights: Mapping[str, torch.Tensor]

    @property
    def roles(self) -> RoleTable:
        names = {Place("value", 0): "v", Place("attention_output", 0): "o", Place("unembedding"): "u"}
        return RoleTable(names, {Place("key", 0): "it looks at nothing"})

    def with_weights(self, changed: Mapping[str, torch.Tensor]) -> "Factored":
        return Factored(exchanged(self.weights, changed))


def normal(*shape: int, key: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(key), dtype=torch.float64)


def factored(outside: int, inside: int, dtype: torch.dtype = torch.float64) -> Factored:
    weights = {
        "v": normal(2, inside, outside, key=1),
        "o": normal(2, outside, inside, key=2),
        "u": normal(2, 4, 7, key=3),
    }
    return Factored({name: one.to(dtype) for name, one in weights.items()})


def of_rank(size: int, rank: int) -> torch.Tensor:
    return normal(2, size, rank, key=4) @ normal(2, rank, size, key=5)


@given(PLACES)
def test_a_place_is_read_back_as_it_is_written(place: Place) -> None:
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", f"role is ''; it must be one of {', '.join(ROLES)}."),
        ("Key 0", f"role is 'Key'; it must be one of {', '.join(ROLES)}."),
        ("key", "place is 'key'; key has a layer, counted from 0 after it."),
        ("key -1", "place is 'key -1'; key has a layer, counted from 0 after it."),
        ("key 1.0", "place is 'key 1.0'; key has a layer, counted from 0 after it."),
        ("key  1", "place is 'key  1'; key has a layer, counted from 0 after it."),
        ("embedding 0", "place is 'embedding 0'; embedding has no layer after it."),
        ("embedding ", "place is 'embedding '; it must be written 'embedding'."),
        ("key 01", "place is 'key 01'; it must be written 'key 1'."),
        ("key ٣", "place is 'key ٣'; it must be written 'key 3'."),
    ],
)
def test_what_is_no_place_is_told(text: str, answer: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        Place.parse(text)


@given(st.text())
def test_a_text_is_a_place_or_told(text: str) -> None:
    try:
        place = Place.parse(text)
    except ValueError:
        return
    assert str(place) == text


def check_table(model: Model) -> None:
    """Places and weights are one to one, nothing is both there and absent, and what is absent is told."""
    table = model.roles
    names = [table.name(*place) for place in table.places()]
    assert sorted(names) == sorted(model.weights)
    assert set(table.places()) == set(table.names)
    for place in table.places():
        assert table.has(*place)
        assert matrix(model, *place) is model.weights[table.name(*place)]
    assert not set(table.absent) & set(table.names)
    for place, reason in table.absent.items():
        with pytest.raises(ValueError, match=f"^{re.escape(f'place is {str(place)!r}; {reason}.')}$"):
            table.name(*place)


@given(architectures())
def test_every_weight_of_a_transformer_has_one_place(architecture: Architecture) -> None:
    model = drawn(architecture)
    check_table(model)
    table = model.roles
    assert table.n_layers == architecture.n_layers
    assert {place: tuple(matrix(model, *place).shape[1:]) for place in table.places()} == architecture.shapes
    asked = {Place(role) for role in MODEL_ROLES}
    asked |= {Place(role, layer) for role in LAYER_ROLES for layer in range(architecture.n_layers)}
    assert asked == set(table.names) | set(table.absent)
    for place in table.absent:
        assert not table.has(*place)
    for layer in range(architecture.n_layers):
        assert table.has("value_output", layer)
        assert not table.has("key_query", layer)


def test_every_weight_of_the_one_layer_model_has_one_place() -> None:
    check_table(one_layer_recall.build(NoisyRecall.theory_version(3, 4, 0.2), 2))


def test_places_come_layer_by_layer_in_the_order_of_the_roles() -> None:
    architecture = Architecture(3, 4, 2, ("relu", "linear"), query="trained")
    layers = [["query", "key", "value", "attention_output", "feed_forward_in", "feed_forward_out"]] * 2
    expected = [*MODEL_ROLES, *(f"{role} 0" for role in layers[0])]
    expected += [f"{role} 1" for role in layers[1] if role != "feed_forward_in"]
    assert [str(place) for place in architecture.roles.places()] == expected
    assert architecture.roles.places(layers=[1]) == [Place.parse(one) for one in expected[9:]]


def check_change(model: Any, changed: Any, names: set[str]) -> None:
    """Weights of these names are new tensors, and all others are the same objects."""
    assert changed.weights.keys() == model.weights.keys()
    for name, one in model.weights.items():
        assert (changed.weights[name] is one) == (name not in names)


@given(architectures(), st.data())
def test_a_change_of_one_matrix_changes_nothing_else(architecture: Architecture, data: st.DataObject) -> None:
    model = drawn(architecture, (0, 1))
    before = fingerprint(model)
    place = data.draw(st.sampled_from(model.roles.places()))
    new = normal(*matrix(model, *place).shape)
    changed = with_matrix(model, *place, new)
    assert isinstance(changed, Transformer)
    assert changed.architecture is model.architecture
    assert matrix(changed, *place) is new
    check_change(model, changed, {model.roles.name(*place)})
    assert fingerprint(model) == before


@given(architectures(max_layers=2), st.data())
def test_a_product_of_square_matrices_is_read_and_written(
    architecture: Architecture, data: st.DataObject
) -> None:
    model = drawn(architecture, (0, 1))
    layer = data.draw(st.integers(0, architecture.n_layers - 1))
    left, right = (model.weights[f"{role}.{layer}"] for role in PRODUCTS["value_output"])
    old = matrix(model, "value_output", layer)
    for seed in range(2):
        # float64: sums of at most 6 products below 1.
        torch.testing.assert_close(old[seed], left[seed] @ right[seed], rtol=0, atol=1e-14)
    new = normal(*old.shape)
    changed = with_matrix(model, "value_output", layer, new)
    check_change(model, changed, {f"attention_output.{layer}", f"value.{layer}"})
    identity = torch.eye(architecture.width, dtype=torch.float64).expand_as(right)
    assert torch.equal(changed.weights[f"value.{layer}"], identity)
    assert torch.equal(changed.weights[f"attention_output.{layer}"], new)
    # The right factor is the identity, and adding exact zeros rounds nothing.
    assert torch.equal(matrix(changed, "value_output", layer), new)
    changed.weights[f"value.{layer}"][0, 0, 0] = 7  # a tensor of its own, not one identity seen twice
    assert changed.weights[f"value.{layer}"][1, 0, 0] == 1


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_product_through_a_narrow_width_takes_what_fits(rank: int) -> None:
    model, new = factored(5, 3), of_rank(5, rank)
    changed = with_matrix(model, "value_output", 0, new)
    check_change(model, changed, {"v", "o"})
    assert {name: one.shape for name, one in changed.weights.items()} == {
        name: one.shape for name, one in model.weights.items()
    }
    # float64 SVD, roots and product of matrices of norm below 30: some hundred roundings of 1.1e-16, as in low rank's tests.
    torch.testing.assert_close(matrix(changed, "value_output", 0), new, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inside", [6, 9])
def test_a_product_through_a_wide_width_takes_all(inside: int) -> None:
    model, new = factored(5, inside), normal(2, 5, 5, key=6)
    changed = with_matrix(model, "value_output", 0, new)
    assert {name: one.shape for name, one in changed.weights.items()} == {
        name: one.shape for name, one in model.weights.items()
    }
    torch.testing.assert_close(matrix(changed, "value_output", 0), new, rtol=0, atol=1e-12)  # as above


def test_a_product_in_float32_stays_there() -> None:
    model, new = factored(5, 3, torch.float32), of_rank(5, 3).float()
    changed = with_matrix(model, "value_output", 0, new)
    assert {one.dtype for one in changed.weights.values()} == {torch.float32}
    # Factors of norm below 6 rounded to float32 (6e-8), and a sum of three products: 36 × 5 roundings.
    torch.testing.assert_close(matrix(changed, "value_output", 0), new, rtol=0, atol=36 * 5 * 6e-8)


@pytest.mark.parametrize("rank", [4, 5])
def test_a_product_through_a_narrow_width_refuses_what_does_not_fit(rank: int) -> None:
    model = factored(5, 3)
    before = fingerprint(model)
    answer = "matrix for value_output 0 has rank above 3, the width between its factors."
    with pytest.raises(ValueError, match=f"^{answer}$"):
        with_matrix(model, "value_output", 0, of_rank(5, rank))
    one_fits = torch.stack([of_rank(5, 3)[0], of_rank(5, rank)[1]])
    with pytest.raises(ValueError, match=f"^{answer}$"):
        with_matrix(model, "value_output", 0, one_fits)
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("role", "layer", "answer"),
    [
        ("values", 0, f"role is 'values'; it must be one of {', '.join(ROLES)}."),
        ("key", 2, "layer is 2; it must be an integer from 0 to 1."),
        ("key", -1, "layer is -1; it must be an integer from 0 to 1."),
        ("key", None, "layer is None; it must be an integer from 0 to 1."),
        ("key", True, "layer is True; it must be an integer from 0 to 1."),
        ("key", 1.0, "layer is 1.0; it must be an integer from 0 to 1."),
        ("value_output", 2, "layer is 2; it must be an integer from 0 to 1."),
        ("embedding", 0, "layer is 0 with role 'embedding'; it must be None, as it has no layer."),
        ("query", 0, "place is 'query 0'; the query of this model is the identity."),
        ("feed_forward_out", 0, "place is 'feed_forward_out 0'; block 0 has no feed-forward."),
        (
            "feed_forward_in",
            0,
            "place is 'feed_forward_in 0'; the none feed-forward of block 0 has no matrix.",
        ),
        (
            "feed_forward_in",
            1,
            "place is 'feed_forward_in 1'; the linear feed-forward of block 1 has one matrix, feed_forward_out.",
        ),
        ("key_query", 1, "place is 'key_query 1'; this model has no such weight."),
    ],
)
def test_a_wrong_place_is_told_in_one_sentence(role: str, layer: Any, answer: str) -> None:
    model = drawn(Architecture(3, 4, 2, ("none", "linear")))
    for ask in (matrix, lambda *where: with_matrix(*where, torch.zeros(1, 2, 2))):
        with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
            ask(model, role, layer)


def test_a_matrix_of_another_shape_is_told() -> None:
    model = drawn(Architecture(3, 4, 2, ("none",), (True,)))
    answer = r"matrix for value_output 0 has shape \(1, 2, 3\); it must be \(1, 2, 2\)\."
    with pytest.raises(ValueError, match=f"^{answer}$"):
        with_matrix(model, "value_output", 0, torch.zeros(1, 2, 3))
    with pytest.raises(
        ValueError, match=r"^matrix for embedding has shape \(2, 3, 2\); it must be \(1, 3, 2\)"
    ):
        with_matrix(model, "embedding", None, torch.zeros(2, 3, 2))


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        ({"w": torch.zeros(2, 3, 5)}, "weight is 'w'; it must be one of v, o, u."),
        ({"v": torch.zeros(2, 5, 3)}, "weight v has shape (5, 3); it must be (3, 5)."),
        (
            {"v": torch.zeros(1, 3, 5)},
            "weights are stacks of different heights; each must have the same number of seeds.",
        ),
    ],
)
def test_wrong_weights_are_told(changed: dict[str, torch.Tensor], answer: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        factored(5, 3).with_weights(changed)


def test_all_weights_may_change_their_number_of_seeds_together() -> None:
    model = factored(5, 3)
    one = model.with_weights({name: tensor[:1] for name, tensor in model.weights.items()})
    assert {len(tensor) for tensor in one.weights.values()} == {1}
