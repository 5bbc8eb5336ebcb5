"""Probes of language models: batched equals one by one, and both equal the library's own forward pass."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.models.language_model import LanguageModel
from sims.probes.language_model import (
    TextLosses,
    last_log_probabilities,
    text_losses,
    token_ids,
)
from tests.sims.tiny_language_models import CONTEXT, FAMILY_NAMES, ROWS, WORDS, tiny

pytest.importorskip("transformers", reason="pretrained models need the extra 'pretrained'")

ROUNDING = 1e-11
"""float64 all through but for sines and cosines, which are the same numbers; log probabilities are of order 10."""
EAGER_ROUNDING = 1e-5
"""The library takes the softmax of its own attention in float32, some versions GPT-J's logits too: a few times 6e-8 of 10."""
PROMPTS = [" ".join(WORDS[:length]) for length in (7, 1, 16, 3, 7, 2)]


def by_library(model: LanguageModel, tokens: list[int]) -> torch.Tensor:
    """Log probabilities after every token of one sequence, from the library's forward pass without padding or mask."""
    with torch.no_grad():
        return model.network(torch.tensor([tokens])).logits[0].double().log_softmax(-1)


@pytest.mark.parametrize(
    ("family", "attention"),
    [(one, kind) for one in FAMILY_NAMES for kind in ("eager", "sdpa") if (one, kind) != ("gptj", "sdpa")],
)
def test_batched_prompts_are_those_one_by_one_and_the_library_s(family: str, attention: str) -> None:
    """GPT-J has the library's own attention only."""
    model = tiny(family, attn_implementation=attention)
    assert model.network.config._attn_implementation == attention
    tolerance = EAGER_ROUNDING if attention == "eager" else ROUNDING
    together = last_log_probabilities(model, PROMPTS)
    assert together.shape == (len(PROMPTS), ROWS)
    for row, prompt in enumerate(PROMPTS):
        own = by_library(model, token_ids(model, prompt))[-1]
        torch.testing.assert_close(together[row], own, rtol=0, atol=tolerance)
        torch.testing.assert_close(last_log_probabilities(model, [prompt])[0], own, rtol=0, atol=tolerance)
    torch.testing.assert_close(together.exp().sum(-1), torch.ones(len(PROMPTS)).double(), rtol=0, atol=1e-12)
    for other in range(len(PROMPTS)):
        assert other in (0, 4) or (together[0] - together[other]).abs().max() > 1e-3


@given(
    st.sampled_from(FAMILY_NAMES),
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=CONTEXT), min_size=1, max_size=7),
    st.integers(1, 8),
)
def test_neither_order_nor_batch_size_matters(family: str, words: list[list[str]], batch_size: int) -> None:
    model = tiny(family)
    prompts = [" ".join(one) for one in words]
    found = last_log_probabilities(model, prompts, batch_size)
    turned = last_log_probabilities(model, prompts[::-1], 2)
    tolerance = EAGER_ROUNDING if family == "gptj" else ROUNDING
    torch.testing.assert_close(found, turned.flip(0), rtol=0, atol=tolerance)
    alone = by_library(model, token_ids(model, prompts[0]))[-1]
    torch.testing.assert_close(found[0], alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_shorter_types_are_normalised_in_float32(family: str, dtype: torch.dtype) -> None:
    model, exact = tiny(family, dtype=dtype), tiny(family)
    found = last_log_probabilities(model, PROMPTS, batch_size=2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(len(PROMPTS)), rtol=0, atol=1e-5)
    # Two blocks of entries of order 10: some tens of roundings of 6e-8, 5e-4 or 4e-3 times 10.
    tolerance = {torch.float32: 1e-3, torch.float16: 0.5, torch.bfloat16: 4.0}[dtype]
    assert (found.double() - last_log_probabilities(exact, PROMPTS)).abs().max() < tolerance


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_perplexity_is_the_library_s_loss(family: str) -> None:
    model = tiny(family)
    texts = [PROMPTS[2], PROMPTS[0], PROMPTS[5]]
    found = text_losses(model, texts, batch_size=2)
    assert found.counts.tolist() == [15, 6, 1]
    for row, text in enumerate(texts):
        tokens = torch.tensor([token_ids(model, text)])
        with torch.no_grad():
            loss = float(model.network(tokens, labels=tokens).loss)  # mean over predicted tokens
        # The library may take its loss in float32: 22 terms below 30, each rounded at 6e-8.
        np.testing.assert_allclose(found.losses[row] / found.counts[row], loss, rtol=1e-6, atol=0)
    assert text_losses(model, texts, batch_size=2).perplexity == pytest.approx(
        np.exp(found.losses.sum() / 22), rel=1e-12
    )


def test_the_error_of_a_perplexity_ratio_is_that_of_a_mean() -> None:
    """Texts of one length: the standard error of the mean of their loss differences. Twice the texts, as independent ones, have
    1/√2 of it, up to n − 1. A loss that grows by the same for every token has none, whatever the lengths."""
    rng = np.random.default_rng(0)
    before, after = (TextLosses(rng.gamma(9, size=40), np.full(40, 7)) for _ in range(2))
    mean = (after.losses - before.losses) / 7
    error = after.ratio_error(before)
    assert error == pytest.approx(mean.std(ddof=1) / np.sqrt(40), rel=1e-12)
    twice = [TextLosses(np.tile(one.losses, 2), np.tile(one.counts, 2)) for one in (after, before)]
    assert twice[0].ratio_error(twice[1]) == pytest.approx(error * np.sqrt(39 / 79), rel=1e-12)
    counts = rng.integers(1, 30, 40)
    first = TextLosses(rng.gamma(9, size=40), counts)
    assert TextLosses(first.losses + 0.3 * counts, counts).ratio_error(first) < 1e-15
    assert np.isnan(TextLosses(np.ones(1), np.ones(1)).ratio_error(TextLosses(np.ones(1), np.ones(1))))


def test_a_long_text_is_read_in_pieces_that_share_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token but the first is predicted once; so is it when few positions are held at a time."""
    model = tiny("gpt_neox")
    words = [WORDS[place * 7 % len(WORDS)] for place in range(2 * CONTEXT + 5)]
    text = " ".join(words)
    tokens, expected = token_ids(model, text), 0.0
    for start, stop in ((0, CONTEXT), (CONTEXT - 1, 2 * CONTEXT - 1), (2 * CONTEXT - 2, 2 * CONTEXT + 5)):
        known = by_library(model, tokens[start:stop])
        for place in range(start, stop - 1):
            expected -= float(known[place - start, tokens[place + 1]])
    for at_once in (512, 3):
        monkeypatch.setattr("sims.probes.language_model.POSITIONS_AT_ONCE", at_once)
        found = text_losses(model, [text, PROMPTS[0]], batch_size=2)
        assert found.counts.tolist() == [len(tokens) - 1, 6]
        np.testing.assert_allclose(found.losses[0], expected, rtol=1e-12)
    whole = " ".join(words[:CONTEXT])
    assert text_losses(model, [whole]).counts.tolist() == [CONTEXT - 1]
    assert text_losses(model, [f"{whole} a"]).counts.tolist() == [CONTEXT]


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    model = tiny("llama")
    model.network.lm_head.weight.zero_()
    assert text_losses(model, PROMPTS[2:4]).perplexity == pytest.approx(ROWS, rel=1e-12)


def test_probes_leave_the_caller_s_gradient_mode_alone() -> None:
    model = tiny("gpt2")
    assert torch.is_grad_enabled()
    assert not last_log_probabilities(model, PROMPTS).requires_grad
    text_losses(model, [PROMPTS[0]])
    assert torch.is_grad_enabled()


class Marked:
    """A tokenizer that puts a token in front, as Llama's does, and knows one that the model lacks."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {
            "input_ids": [2, *(ROWS if word == "alien" else WORDS.index(word) + 1 for word in text.split())]
        }


def test_tokens_that_the_tokenizer_adds_are_read_too() -> None:
    model = tiny("llama")
    marked = LanguageModel(model.network, Marked(), model.family)
    own = by_library(model, [2, 1, 3])[-1]
    torch.testing.assert_close(last_log_probabilities(marked, ["Mary went"])[0], own, rtol=0, atol=ROUNDING)
    answer = f"text 'alien' has token {ROWS}; the embedding has {ROWS} rows."
    with pytest.raises(ValueError, match=f"^{answer}$"):
        last_log_probabilities(marked, ["alien"])


@pytest.mark.parametrize(
    ("probe", "answer"),
    [
        (lambda m: last_log_probabilities(m, []), "prompts is empty; there must be at least one."),
        (lambda m: last_log_probabilities(m, ["Mary", ""]), "prompt '' has 0 tokens; it must have 1 to 24."),
        (lambda m: last_log_probabilities(m, ["a " * 25]), "prompt 'a a a a a a a a a a a a a a a a a a a a …' has 25 tokens; "
         "it must have 1 to 24."),
        (lambda m: last_log_probabilities(m, ["a"], 0), "batch_size is 0; it must be a positive integer."),
        (lambda m: last_log_probabilities(m, ["a"], True), "batch_size is True; it must be a positive integer."),
        (lambda m: text_losses(m, []).perplexity, "texts is empty; there must be at least one."),
        (lambda m: text_losses(m, ["a"]).perplexity, "text 'a' has 1 tokens; it must have at least two."),
        (lambda m: text_losses(m, ["a a"], 1.5).perplexity, "batch_size is 1.5; it must be a positive integer."),
    ],
)  # fmt: skip
def test_bad_input_is_told(probe: Any, answer: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        probe(tiny("gpt2"))
