"""Noise matrices against their definitions in numpy, the kernels that each form gives, and what a training does to them."""

import itertools
import math
import re
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sims.interventions.orthogonal_noise import NoiseForm, NoiseKind, with_noise
from sims.models.decoder import Decoder, DecoderArchitecture, initialise_decoder
from sims.probes.matching import kernel, matching_kernel
from sims.recipes.matching import MatchingRecipe
from sims.roles import LAYER_ROLES
from sims.statistics import z_threshold
from sims.streams import torch_generator
from tests.sims.small_decoders import architectures, check_against_loops, close, drawn, tokens_of
from tests.sims.small_transformers import fingerprint

FORMS, KINDS = get_args(NoiseForm), get_args(NoiseKind)
ROUNDING = 1e-12
"""float64: products of up to four matrices of order one and width up to 64, some hundred roundings of 1.1e-16."""
WIDE = DecoderArchitecture(3, 2, 64, 4, 1, 1, 0, "none")
RECIPE = MatchingRecipe(
    width=8, attention_width=8, feed_forward_width=8, n_layers=3, batch_size=8, final_step=20
)


def by_definition(kind: str, width: int, layer: int, seed: int) -> np.ndarray:
    """Z_l of a seed: its Gaussian draw by its own stream, over √d, or made orthonormal column after column (Gram and Schmidt)."""
    generator = torch_generator("test", f"noise.{layer}", seed)
    found = torch.randn(width, width, generator=generator, dtype=torch.float64).numpy()
    if kind == "gaussian":
        return found / width**0.5
    columns: list[np.ndarray] = []
    for column in found.T:
        for _ in range(2):  # twice, so that it is orthogonal to rounding
            for other in columns:
                column = column - (other @ column) * other
        columns.append(column / math.sqrt(column @ column))
    return np.array(columns).T


def bare(architecture: DecoderArchitecture, seeds: tuple[int, ...]) -> Decoder:
    """Without any attention of its own, so that products are what is added."""
    model = initialise_decoder(architecture, "test", seeds, dtype=torch.float64)
    names = [
        model.roles.name(role, layer)
        for role, layer in itertools.product(LAYER_ROLES[:4], range(architecture.n_layers))
    ]
    return model.with_weights({name: torch.zeros_like(model.weights[name]) for name in names})


@settings(max_examples=50)
@given(
    architectures(),
    st.sampled_from(FORMS),
    st.sampled_from(KINDS),
    st.floats(-2, 2),
    st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
)
def test_what_is_added_is_what_the_form_says(
    architecture: DecoderArchitecture, form: Any, kind: Any, start: float, seeds: list[int]
) -> None:
    """Of every layer and seed, in columns: α Z_{l−1}ᵀ, or α Z_{l−1} Z_0ᵀ beyond layer 1; and β Z_l."""
    model = drawn(architecture, seeds)
    before = fingerprint(model)
    noisy = with_noise(model, form, kind, start, "test", seeds)
    assert fingerprint(model) == before
    assert noisy.architecture.has_added
    assert all(noisy.weights[name] is one for name, one in model.weights.items())
    d = architecture.width
    for place, seed in enumerate(seeds):
        z = [
            np.eye(d) if form == "identity" else by_definition(kind, d, layer, seed)
            for layer in range(architecture.n_layers)
        ]
        for layer in range(architecture.n_layers):
            scores, moved = noisy.added("key_query", layer), noisy.added("value_output", layer)
            assert scores is not None
            assert moved is not None
            expected = np.zeros((d, d))
            if layer:
                crossed = form == "corrected" and layer > 1
                expected = z[layer - 1] @ z[0].T if crossed else z[layer - 1].T
            # A nearly singular draw loses digits where it is made orthogonal: 1e-9 leaves room for a thousandth of a column.
            close(moved[place], start * z[layer], 1e-9)
            close(scores[place], start * expected, 1e-9)
    for product in ("key_query", "value_output"):
        factors = noisy.weights[f"{product}_factor"]
        assert torch.equal(factors, torch.full_like(factors, start))
        assert factors.shape == (len(seeds), architecture.n_layers)
    assert noisy.weights["key_query_factor"] is not noisy.weights["value_output_factor"]
    check_against_loops(noisy, tokens_of(architecture, len(seeds), 1, architecture.context_length))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonal_matrices_are_exactly_so(dtype: torch.dtype) -> None:
    model = initialise_decoder(WIDE, "test", (0, 1), dtype=dtype)
    noisy = with_noise(model, "remembered", "orthogonal", 1.0, "test", (0, 1))
    for layer in range(4):
        z = noisy.weights[f"value_output_added.{layer}"]
        assert z.dtype == dtype
        # In float32, 64 products of entries of 1/8 that are off by 4e-9 each: 3e-8 at the most.
        tolerance = ROUNDING if dtype == torch.float64 else 1e-7
        close(z.double() @ z.double().mT, np.eye(64) + np.zeros((2, 1, 1)), tolerance)


def test_draws_have_the_distribution_that_their_kind_says() -> None:
    """An entry of mean 0, variance 1/d and its fourth moment, and a trace of mean 0 and variance 1; of 60 seeds and 4 layers.

    The square of an entry of a Haar matrix is beta distributed, so that E z⁴ = 3/(d(d + 2)).
    """
    width, seeds = 6, tuple(range(60))
    architecture = DecoderArchitecture(3, 2, width, 4, 1, 1, 0, "none")
    threshold = z_threshold(2 * 4)
    kinds: tuple[tuple[Any, float, float], ...] = (
        ("gaussian", 3 / width**2, 105 / width**4),
        ("orthogonal", 3 / (6 * 8), 105 / (6 * 8 * 10 * 12)),
    )
    for kind, fourth, eighth in kinds:
        model = with_noise(bare(architecture, seeds), "remembered", kind, 1.0, "test", seeds)
        z = np.stack([model.weights[f"value_output_added.{layer}"].numpy() for layer in range(4)])
        corner = z[:, :, 0, 0].ravel()  # one entry a matrix: independent
        root = math.sqrt(corner.size)
        scores = [
            corner.mean() * math.sqrt(width) * root,
            (np.mean(corner**2) - 1 / width) / math.sqrt(fourth - 1 / width**2) * root,
            (np.mean(corner**4) - fourth) / math.sqrt(eighth - fourth**2) * root,
            z.trace(axis1=2, axis2=3).mean() * root,
        ]
        assert max(map(abs, scores)) < threshold, (kind, scores, corner.size)
        if kind == "orthogonal":
            np.testing.assert_allclose((z**2).sum(-1), 1, rtol=0, atol=ROUNDING)


def test_gaussian_matrices_are_orthogonal_entry_by_entry_only() -> None:
    """Off-diagonal entries of Z Zᵀ are of order 1/√d, and yet ‖Z Zᵀ − I‖ is as large as ‖I‖ itself, at every width."""
    noisy = with_noise(bare(WIDE, (0,)), "remembered", "gaussian", 1.0, "test", (0,))
    for layer in range(4):
        z = noisy.weights[f"value_output_added.{layer}"][0].numpy()
        off = z @ z.T - np.eye(64)
        # d(d − 1) off-diagonal entries of variance 1/d and d diagonal ones of 2/d: expectation (d + 1)/d, deviation about 0.05.
        assert np.linalg.norm(off) / 8 == pytest.approx(math.sqrt(65 / 64), abs=0.15)
        assert np.abs(off).max() < 1


@pytest.mark.parametrize("form", FORMS)
def test_kernels_that_the_forms_give(form: Any) -> None:
    """With exactly orthogonal matrices: which buffer of the query meets which of the key, by its trace over d.

    "corrected" gives the identity between buffer l − 1 and buffer 0 in every layer; "remembered" gives it between the raw token
    and buffer l − 1, and beyond layer 1 nothing between buffer l − 1 and buffer 0; "identity" gives it everywhere.
    """
    model = with_noise(bare(WIDE, (0, 1)), form, "orthogonal", 1.0, "test", (0, 1))
    # The others are Haar matrices, or squares of them: traces of mean 0 and variance 1, or mean 1 and variance 2.
    threshold = (1 + math.sqrt(2) * z_threshold(2 * 29)) / 64
    for layer, query, key in itertools.product(range(1, 4), (None, 0, 1, 2), (None, 0, 1, 2)):
        if (query is not None and query >= layer) or (key is not None and key >= layer):
            continue
        found = kernel(model, layer, query, key)
        meets = {
            "remembered": (query, key) == (None, layer - 1),
            "corrected": (query, key) == ((None, 0) if layer == 1 else (layer - 1, 0)),
            "identity": True,
        }[form]
        if meets:
            close(found, np.eye(64) + np.zeros((2, 1, 1)), ROUNDING)
        else:
            trace = found.diagonal(dim1=-2, dim2=-1).mean(-1).abs()
            assert float(trace.max()) < threshold, (layer, query, key)
    for layer in range(1, 4):
        expected = form != "remembered" or layer == 1
        mean = matching_kernel(model, layer).diagonal(dim1=-2, dim2=-1).mean(-1)
        assert bool(((mean - float(expected)).abs() < threshold).all())


def test_corrected_kernels_of_gaussian_matrices_are_near_the_identity() -> None:
    """Entry by entry: diagonal entries of mean 1, the others of mean square 1/d in layer 1 and 3/d beyond."""
    seeds = tuple(range(4))
    model = with_noise(bare(WIDE, seeds), "corrected", "gaussian", 1.0, "test", seeds)
    for layer in range(1, 4):
        found = matching_kernel(model, layer).numpy()
        assert found.diagonal(axis1=1, axis2=2).mean() == pytest.approx(1, abs=0.1)
        rest = found - np.eye(64) * found
        # 16 000 entries, but in rows whose lengths vary by √(2/64): a few per cent, and terms of order 1/d.
        expected = (1 if layer == 1 else 3) / 64
        assert (rest**2).sum() / (4 * 64 * 63) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_seed_draws_its_own(form: Any, kind: Any) -> None:
    architecture = DecoderArchitecture(5, 3, 4, 3)
    seeds = (3, 8, 5)
    together = with_noise(drawn(architecture, seeds), form, kind, 0.5, "test", seeds)
    for place, seed in enumerate(seeds):
        alone = with_noise(drawn(architecture, (seed,)), form, kind, 0.5, "test", (seed,))
        elsewhere = with_noise(drawn(architecture, (seed,)), form, kind, 0.5, "another", (seed,))
        assert set(alone.weights) == set(together.weights)
        for name in (
            "key_query_added.1",
            "key_query_added.2",
            "value_output_added.0",
            "value_output_added.2",
        ):
            # Products of three matrices may be summed in another order in a stack.
            close(together.weights[name][place], alone.weights[name][0], ROUNDING)
            assert torch.equal(alone.weights[name], elsewhere.weights[name]) == (form == "identity")
    for name in ("key_query_added.1", "value_output_added.0"):
        for one, two in itertools.combinations(together.weights[name], 2):
            assert torch.equal(one, two) == (form == "identity")
    layers = [together.weights[f"value_output_added.{layer}"] for layer in range(3)]
    for one, two in itertools.combinations(layers, 2):
        assert torch.equal(one, two) == (form == "identity")


def test_the_two_forms_differ_beyond_layer_1_alone() -> None:
    forms = [
        with_noise(bare(WIDE, (0,)), form, "orthogonal", 1.0, "test", (0,))
        for form in ("remembered", "corrected")
    ]
    for name, one in forms[0].weights.items():
        same = name not in ("key_query_added.2", "key_query_added.3")
        assert torch.equal(one, forms[1].weights[name]) == same


@pytest.mark.parametrize("form", FORMS)
def test_factors_of_zero_leave_the_logits_as_they_were(form: Any) -> None:
    architecture = DecoderArchitecture(7, 6, 4, 3, 2, 4, 5)
    model, tokens = drawn(architecture, (0, 1)), tokens_of(architecture, 2, 2, 6)
    for start in (0.0, 1.0):
        noisy = with_noise(model, form, "orthogonal", start, "test", (0, 1))
        assert torch.equal(noisy.logits(tokens), model.logits(tokens)) == (start == 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_training_moves_the_factors_and_not_the_matrices(form: Any, optimiser: Any) -> None:
    """Nor does weight decay; each seed's factors go their own way, and that of layer 0's scores has nothing to scale."""
    fields = {"noise": form, "noise_start": 0.5, "optimiser": optimiser, "weight_decay": 0.0}
    recipe = MatchingRecipe(**{**RECIPE.__dict__, **fields})
    started = recipe.begin((0, 1), "cpu")
    before = {name: one.detach().clone() for name, one in started.model.weights.items()}
    started.training.advance(4)
    for name, one in started.model.weights.items():
        assert one.requires_grad == ("_added." not in name)
        moved = (one.detach() != before[name]).flatten(1)
        if "_added." in name:
            assert not moved.any()
        elif "_factor" in name:
            idle = name == "key_query_factor"
            assert moved.tolist() == [[not (idle and layer == 0) for layer in range(3)]] * 2
            assert not torch.equal(one[0].detach(), one[1].detach())
        else:
            assert bool(moved.any(1).all()), name


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({"form": "full"}, "noise form is 'full'; it must be one of remembered, corrected, identity."),
        ({"kind": "uniform"}, "noise kind is 'uniform'; it must be one of gaussian, orthogonal."),
        ({"start": math.nan}, "start is nan; it must be finite."),
        ({"start": -math.inf}, "start is -inf; it must be finite."),
        ({"seeds": (0,)}, "seeds has 1 entries; it must have 2, one a model."),
        ({"seeds": ()}, "seeds has 0 entries; it must have 2, one a model."),
    ],
)
def test_unknown_noise_is_refused_in_a_sentence(arguments: dict[str, Any], answer: str) -> None:
    given_to: dict[str, Any] = {
        "form": "corrected",
        "kind": "gaussian",
        "start": 1.0,
        "stream": "test",
        "seeds": (0, 1),
    }
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        with_noise(drawn(DecoderArchitecture(5, 3, 4), (0, 1)), **{**given_to, **arguments})
