"""Surgery on matching: what each cut does to the kernel, what it leaves, and which edges are named."""

import pytest
import torch

from sims.interventions import kernels as surgery
from sims.interventions.orthogonal_noise import with_noise
from sims.models.decoder import Decoder, DecoderArchitecture, initialise_decoder
from sims.probes import matching as probes
from sims.streams import torch_generator
from sims.tasks.pair_chains import PairChains

SEEDS = (0, 1)
ARCHITECTURE = DecoderArchitecture(
    vocabulary_size=12, context_length=9, width=6, n_layers=3, attention_width=6, feed_forward_width=0
)


def model_of(noisy: bool = False) -> Decoder:
    model = initialise_decoder(ARCHITECTURE, "test", SEEDS, dtype=torch.float64)
    return with_noise(model, "corrected", "orthogonal", 0.5, "test", SEEDS) if noisy else model


def trace_of(matrices: torch.Tensor) -> torch.Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("layer", [1, 2])
def test_without_its_matching_part_the_kernel_has_no_trace_and_all_else_stays(
    layer: int, noisy: bool
) -> None:
    model = model_of(noisy)
    changed = surgery.without_matching_part(model, layer)
    # float64 sums of some products.
    torch.testing.assert_close(
        trace_of(probes.matching_kernel(changed, layer)),
        torch.zeros(2, dtype=torch.float64),
        rtol=0,
        atol=1e-13,
    )
    assert (trace_of(probes.matching_kernel(model, layer)).abs() > 1e-3).all()
    taken = model.key_query(layer) - changed.key_query(layer)
    direction = surgery.matching_product(model, layer)
    along = (changed.key_query(layer) * direction).sum((-1, -2))
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-13)
    for one, other in zip(taken, direction, strict=True):  # what is taken out lies along one direction of d²
        assert torch.linalg.matrix_rank(torch.stack([one.flatten(), other.flatten()]), rtol=1e-9) == 1
    for other_layer in {0, 1, 2} - {layer}:
        torch.testing.assert_close(
            changed.key_query(other_layer), model.key_query(other_layer), rtol=0, atol=0
        )
    for every in range(3):
        torch.testing.assert_close(changed.value_output(every), model.value_output(every), rtol=0, atol=0)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("layer", [1, 2])
def test_the_part_and_the_rest_are_the_whole(layer: int, noisy: bool) -> None:
    model = model_of(noisy)
    alone = surgery.matching_part_alone(model, layer).key_query(layer)
    rest = surgery.without_matching_part(model, layer).key_query(layer)
    torch.testing.assert_close(alone + rest, model.key_query(layer), rtol=0, atol=1e-13)
    torch.testing.assert_close(alone, surgery.matching_part(model, layer), rtol=0, atol=1e-13)


@pytest.mark.parametrize("layer", [1, 2])
def test_the_direction_is_that_in_which_the_trace_of_the_kernel_grows(layer: int) -> None:
    """By autograd: ∂ trace Ker / ∂ W_qk."""
    model = model_of()
    weight = model.key_query(layer).clone().requires_grad_()
    query = torch.eye(6, dtype=torch.float64) if layer == 1 else model.value_output(layer - 1)
    (slope,) = torch.autograd.grad(trace_of(query.mT @ weight @ model.value_output(0)).sum(), weight)
    torch.testing.assert_close(surgery.matching_product(model, layer), slope, rtol=0, atol=1e-13)


@pytest.mark.parametrize("layer", [1, 2])
def test_the_control_takes_out_as_much(layer: int) -> None:
    model = model_of()
    changed = surgery.without_random_part(model, layer, torch_generator("test", "control", 0))
    norms = torch.linalg.matrix_norm(model.key_query(layer) - changed.key_query(layer))
    torch.testing.assert_close(norms, torch.linalg.matrix_norm(surgery.matching_part(model, layer)))
    again = surgery.without_random_part(model, layer, torch_generator("test", "control", 0))
    other = surgery.without_random_part(model, layer, torch_generator("test", "control", 1))
    assert torch.equal(again.key_query(layer), changed.key_query(layer))
    assert not torch.allclose(other.key_query(layer), changed.key_query(layer))


def test_edges_are_those_of_the_last_position_alone() -> None:
    problem = PairChains(4, 2, 1, vocabulary_size=12)
    asked = probes.ask(problem, 50, [torch_generator("test", "sentences", seed) for seed in SEEDS])
    for layer in (1, 2):
        matched, other = surgery.matched_edge(asked, layer), surgery.other_edge(asked, layer)
        for edge in (matched, other):
            assert edge.shape == (2, 50, 9, 9)
            assert not edge[:, :, :-1].any()
            assert (edge[:, :, -1].sum(-1) == 1).all()
        assert not (matched & other).any()
        place = matched[:, :, -1].long().argmax(-1)
        assert torch.equal(place, asked.slots[..., layer - 1])
        assert (other[:, :, -1].long().argmax(-1) % 2 == 1).all()  # the right token of a pair
    assert torch.equal(
        asked.tokens.gather(2, asked.slots[..., 1:])[..., 0], asked.labels
    )  # the slot of the last step shows the label
