"""What a language model says: log probabilities of the next token after prompts, and perplexity of texts.

Prompts of any lengths are padded on the right and read together. No token sees a later one, so padding changes nothing but the
last bits: the result is that of one prompt at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sims.models.language_model import LanguageModel

POSITIONS_AT_ONCE = 512
"""Positions whose logits over the vocabulary are held at one time while a text is scored."""


def token_ids(model: LanguageModel, text: str) -> list[int]:
    """The tokens of a text, with those that the tokenizer puts in front or behind by itself.

    Raises ValueError, one sentence, for a token that the model has no embedding of.
    """
    tokens = list(model.tokenizer(text, verbose=False)["input_ids"])
    rows = model.network.get_input_embeddings().weight.shape[0]
    if max(tokens, default=0) >= rows:
        raise ValueError(f"text {_shortened(text)} has token {max(tokens)}; the embedding has {rows} rows.")
    return tokens


def last_log_probabilities(
    model: LanguageModel, prompts: Sequence[str], batch_size: int = 32
) -> torch.Tensor:
    """Log probability of each token after each prompt, shape (prompts, vocabulary_size), float32 or wider, on the model's device.

    - `batch_size`: prompts read together; those of like length go together.

    Raises ValueError, one sentence, for no prompts, a prompt without tokens or with more than the model reads, or a batch size
    below 1. Cost: one pass over all tokens; the unembedding is applied at last positions only.
    """
    _check_batch_size(batch_size)
    if len(prompts) == 0:
        raise ValueError("prompts is empty; there must be at least one.")
    sequences = [token_ids(model, one) for one in prompts]
    for prompt, tokens in zip(prompts, sequences, strict=True):
        if not 1 <= len(tokens) <= model.context_length:
            raise ValueError(
                f"prompt {_shortened(prompt)} has {len(tokens)} tokens; it must have 1 to {model.context_length}."
            )
    found: torch.Tensor | None = None
    for rows, hidden, lengths in _hidden(model, sequences, batch_size):
        last = hidden[torch.arange(len(rows), device=hidden.device), lengths - 1]
        known = _log_probabilities(model, last)
        if found is None:
            found = known.new_empty(len(prompts), known.shape[-1])
        found[rows] = known
    assert found is not None
    return found


@dataclass(frozen=True)
class TextLosses:
    """Loss of each text: the sum of −log p over its predicted tokens (nats), and their number.

    - `losses`: float64, shape (texts,). `counts`: int64, shape (texts,).
    """

    losses: np.ndarray
    counts: np.ndarray

    @property
    def perplexity(self) -> float:
        """exp of the mean loss over all predicted tokens of all texts."""
        return float(np.exp(self.losses.sum() / self.counts.sum()))

    def ratio_error(self, before: TextLosses) -> float:
        """Standard error, over texts, of log(perplexity / perplexity of `before`); the same texts; nan of a single one.

        The log is a ratio of two sums over texts, of loss differences and of predicted tokens: the usual estimator of its error.
        """
        change, size = self.losses - before.losses, len(self.counts)
        if size < 2:
            return float("nan")
        rest = change - self.counts * change.sum() / self.counts.sum()
        return float(np.sqrt(size / (size - 1) * np.square(rest).sum()) / self.counts.sum())


def text_losses(model: LanguageModel, texts: Sequence[str], batch_size: int = 8) -> TextLosses:
    """The loss of each text; every token but the first is predicted once.

    A text longer than the model reads is cut into pieces that share one token, and a piece knows nothing of the one before.
    Raises ValueError, one sentence, for no texts, a text with fewer than two tokens, or a batch size below 1.
    Cost: one pass over all tokens.
    """
    _check_batch_size(batch_size)
    if len(texts) == 0:
        raise ValueError("texts is empty; there must be at least one.")
    pieces, owners = [], []
    for owner, text in enumerate(texts):
        tokens = token_ids(model, text)
        if len(tokens) < 2:
            raise ValueError(f"text {_shortened(text)} has {len(tokens)} tokens; it must have at least two.")
        for start in range(0, len(tokens) - 1, model.context_length - 1):
            pieces.append(tokens[start : start + model.context_length])
            owners.append(owner)
    losses, counts = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    for rows, hidden, lengths in _hidden(model, pieces, batch_size):
        for place, row in enumerate(rows):
            n_predicted = int(lengths[place]) - 1
            targets = torch.tensor(pieces[row][1:], device=hidden.device)
            for start in range(0, n_predicted, POSITIONS_AT_ONCE):
                chosen = slice(start, min(start + POSITIONS_AT_ONCE, n_predicted))
                known = _log_probabilities(model, hidden[place, chosen])
                losses[owners[row]] -= float(known.gather(1, targets[chosen, None]).double().sum())
            counts[owners[row]] += n_predicted
    return TextLosses(losses, counts)


def _hidden(
    model: LanguageModel, sequences: Sequence[list[int]], batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """(rows, last hidden states (rows, longest, d), lengths) of each batch of sequences, sorted by length."""
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        lengths = torch.tensor([len(sequences[row]) for row in rows])
        longest = int(lengths.max())
        tokens = torch.zeros(len(rows), longest, dtype=torch.int64)  # any token: no other sees it
        for place, row in enumerate(rows):
            tokens[place, : len(sequences[row])] = torch.tensor(sequences[row])
        mask = (torch.arange(longest) < lengths[:, None]).to(torch.int64)
        with torch.no_grad():
            hidden = model.network.base_model(
                input_ids=tokens.to(model.device), attention_mask=mask.to(model.device), use_cache=False
            ).last_hidden_state
        yield rows, hidden, lengths.to(model.device)


@torch.no_grad()
def _log_probabilities(model: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
    logits = model.network.get_output_embeddings()(hidden)
    return torch.log_softmax(logits.to(torch.promote_types(torch.float32, logits.dtype)), dim=-1)


def _check_batch_size(batch_size: int) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be a positive integer.")


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
