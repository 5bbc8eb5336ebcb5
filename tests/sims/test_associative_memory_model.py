"""The memory's embeddings, and that a seed trained in a stack is the seed trained alone.

Bit for bit, on a CPU, this holds at widths that are multiples of four: then every seed's matrices start at an address that is a
multiple of 16 bytes, stacked or alone. Elsewhere the matrix products may take another path for a seed that starts in between,
and its last bits may differ (measured with torch 2.13: at (n, width) = (8, 9), (8, 10) and (5, 33), in just the seeds that do not
start at such a multiple); there the difference is bounded instead. Softmax and the optimisers gave equal bits everywhere.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.interventions.low_rank import Spectrum
from sims.interventions.surgery import truncated, without_components, zeroed
from sims.models.associative_memory import AssociativeMemoryModel, build
from sims.roles import matrix, with_matrix
from sims.statistics import z_threshold
from sims.tasks.associative_memory import full_batch_loss, label_probabilities
from sims.training import Training, make_optimiser, train
from theory.problems import AssociativeMemory


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@given(n=st.integers(1, 12), extra=st.integers(0, 20), seeds=st.integers(1, 3), key=st.integers(0, 1000))
def test_orthonormal_columns_are_orthonormal(n: int, extra: int, seeds: int, key: int) -> None:
    model = build(n, n + 1 + extra, "orthonormal", generators(*range(key, key + seeds)))
    for side, count in ((model.unembeddings, n + 1), (model.embeddings, n)):
        assert side.shape == (seeds, n + 1 + extra, count)
        assert side.dtype == torch.float32
        gram = side.double().mT @ side.double()
        # Entries are rounded to float32 once (relative 6e-8), so that a product of unit columns is off by at most 1.2e-7.
        torch.testing.assert_close(gram, torch.eye(count).double().expand(seeds, -1, -1), rtol=0, atol=1.3e-7)


def test_gaussian_entries_have_variance_one_over_width() -> None:
    """Mean and variance over all entries, at a false-alarm rate of 1e-6 for both together; seeds 0 to 39."""
    width = 50
    model = build(6, width, "gaussian", generators(*range(40)))
    entries = torch.cat([model.embeddings.flatten(), model.unembeddings.flatten()]).double().numpy()
    z_mean = entries.mean() * np.sqrt(entries.size * width)
    z_variance = (np.mean(entries**2) * width - 1) * np.sqrt(entries.size / 2)
    assert max(abs(z_mean), abs(z_variance)) <= z_threshold(2), (z_mean, z_variance, entries.size)


def test_identity_embeddings_make_the_corner_of_the_weights_the_logits() -> None:
    model = build(3, 6, "identity", generators(0, 1))
    weights = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(4))
    assert torch.equal(model.logits(weights), weights[:, :4, :3])


def test_weights_start_at_zero_and_are_all_that_trains() -> None:
    model = build(3, 5, "orthonormal", generators(7))
    assert model.memory.requires_grad
    assert not model.memory.detach().any()
    assert not model.embeddings.requires_grad
    assert not model.unembeddings.requires_grad
    assert not model.logits().detach().any()


@given(n=st.integers(1, 6), extra=st.integers(0, 4), key=st.integers(0, 100))
def test_logits_are_the_bilinear_form(n: int, extra: int, key: int) -> None:
    width = n + 1 + extra
    model = build(n, width, "gaussian", generators(key))
    weights = torch.randn(1, width, width, generator=torch.Generator().manual_seed(key))
    u, e, w = (one[0].double().numpy() for one in (model.unembeddings, model.embeddings, weights))
    loops = [[u[:, label] @ w @ e[:, token] for token in range(n)] for label in range(n + 1)]
    # float32 sums of width² ≤ 121 products of order 1/width: 121 roundings of 6e-8, times a margin of 2.
    np.testing.assert_allclose(model.logits(weights)[0], loops, rtol=0, atol=1.5e-5)


def test_a_seed_has_its_own_embeddings_whatever_its_neighbours() -> None:
    together = build(4, 9, "orthonormal", generators(5, 6, 7))
    alone = build(4, 9, "orthonormal", generators(6))
    assert torch.equal(together.embeddings[1], alone.embeddings[0])
    assert torch.equal(together.unembeddings[1], alone.unembeddings[0])
    assert not torch.equal(together.embeddings[0], together.embeddings[1])


def test_the_memory_is_cut_by_role_as_by_hand() -> None:
    model = build(3, 5, "orthonormal", generators(7, 8))
    memory = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(1))
    model = with_matrix(model, "feed_forward_out", 0, memory)
    assert model.memory is memory
    known = Spectrum(memory)
    cut, dropped = (
        truncated(model, "feed_forward_out", 0, 0.4),
        without_components(model, "feed_forward_out", 0, [0]),
    )
    assert torch.equal(cut.logits(), model.logits(known.keep_top(2)))
    assert torch.equal(dropped.logits(), model.logits(known.drop([0])))
    assert truncated(model, "feed_forward_out", 0, 1.0) is model
    for changed in (cut, dropped):
        assert changed.embeddings is model.embeddings
        assert changed.unembeddings is model.unembeddings
    assert torch.equal(model.memory, memory)


def test_embeddings_have_a_row_for_each_token_in_the_role_table() -> None:
    model = build(3, 5, "gaussian", generators(7, 8))
    assert sorted(model.roles.names.values()) == sorted(model.weights)
    assert not set(model.roles.names) & set(model.roles.absent)
    embedding, unembedding = matrix(model, "embedding"), matrix(model, "unembedding")
    assert embedding.shape == (2, 3, 5)
    assert unembedding.shape == (2, 4, 5)
    memory = matrix(model, "feed_forward_out", 0)
    assert torch.equal(unembedding @ memory @ embedding.mT, model.logits())
    silent = zeroed(model, "unembedding")
    assert not silent.unembeddings.any()
    assert silent.unembeddings.shape == model.unembeddings.shape
    assert silent.embeddings is model.embeddings
    other = with_matrix(model, "embedding", None, embedding.flip(1))
    assert torch.equal(other.embeddings, model.embeddings.flip(2))
    with pytest.raises(ValueError, match=r"^place is 'key 0'; this model has no attention\.$"):
        matrix(model, "key", 0)
    with pytest.raises(
        ValueError, match=r"^weight is 'W'; it must be one of embedding, unembedding, memory\.$"
    ):
        model.with_weights({"W": memory})


def trained(n: int, width: int, embedding: str, seeds: tuple[int, ...], optimiser: str) -> np.ndarray:
    """Logits after 1, 10 and 50 steps, shape (seeds, n + 1, n, 3)."""
    problem = AssociativeMemory(n, 0.4)
    model: AssociativeMemoryModel = build(n, width, embedding, generators(*seeds))
    labels = label_probabilities(problem)
    rate, momentum = (0.05, 0.0) if optimiser == "adam" else (0.3 * n, 0.5)
    step = make_optimiser([model.memory], optimiser, rate, momentum)
    read = train(
        Training(step, lambda: full_batch_loss(model.logits(), labels)),
        [1, 10, 50],
        lambda: {"logits": model.logits().numpy(force=True)},
    )
    return read["logits"]


def stacked_and_alone(n: int, width: int, embedding: str, optimiser: str) -> tuple[np.ndarray, np.ndarray]:
    together = trained(n, width, embedding, (0, 1, 2), optimiser)
    alone = np.concatenate([trained(n, width, embedding, (seed,), optimiser) for seed in (0, 1, 2)])
    assert np.abs(together[..., -1]).max() > 0.1  # it has learnt something
    return together, alone


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("n", "width", "embedding"),
    [
        (1, 4, "orthonormal"),
        (2, 4, "identity"),
        (4, 12, "orthonormal"),
        (4, 32, "orthonormal"),
        (8, 16, "orthonormal"),
        (4, 128, "gaussian"),
        (33, 36, "gaussian"),
    ],
)
def test_stacked_seeds_equal_seeds_alone_bit_for_bit(
    n: int, width: int, embedding: str, optimiser: str
) -> None:
    together, alone = stacked_and_alone(n, width, embedding, optimiser)
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(("n", "width", "embedding"), [(8, 9, "orthonormal"), (5, 33, "gaussian")])
def test_stacked_seeds_are_close_at_any_width(n: int, width: int, embedding: str) -> None:
    together, alone = stacked_and_alone(n, width, embedding, "sgd")
    # Fifty steps, each with a rounding or two of float32 (6e-8) on logits below 8, that descent does not amplify.
    np.testing.assert_allclose(together, alone, rtol=0, atol=50 * 2 * 8 * 6e-8)


@pytest.mark.parametrize(
    ("n", "width", "embedding", "answer"),
    [
        (4, 4, "orthonormal", "width is 4; orthonormal embeddings of n_tokens = 4 and the noise token need"),
        (4, 4, "identity", "at least 5"),
        (4, 0, "gaussian", "width is 0; it must be at least 1"),
        (4, 9, "random", "embedding is 'random'; it must be one of orthonormal, gaussian, identity"),
    ],
)
def test_bad_shapes_are_told(n: int, width: int, embedding: str, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        build(n, width, embedding, generators(0))
