"""What a language model answers to prompts: probabilities, ranks and margins, from its log-probabilities alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sims.tasks.prompts import Prompt


def prompt_readings(
    log_probabilities: Any, prompts: Sequence[Prompt], token_of: Mapping[str, int], candidates: Sequence[str]
) -> dict[str, np.ndarray]:
    """Readings of each prompt, float64, shape (n_prompts,), by name.

    - `answer_probability`, `generic_probability`, `subject_probability`, `distractor_probability`: of the answer, of " the", of
      the subject, and of all distractors together. `answer_rank`, `generic_rank`, `subject_rank`: how many tokens are more
      probable, 0 for the first; equal ones do not count. Those of the subject are nan for facts, which have none.
    - `margin`: ln p(answer) − ln p(generic), which is the difference of their logits.
    - `accuracy`: 1 where no other of the candidates is as probable as the answer, else 0.

    Arguments: `log_probabilities`, of the next token, natural logarithms, shape (n_prompts, vocabulary), an array or a tensor on
    the CPU; `token_of`, token number of each word; `candidates`, words such as all names and " the", in which every answer
    must be. Raises ValueError for a shape that does not fit, a word without a token, an answer that is no candidate, or nan.
    """
    table = np.asarray(log_probabilities, float)
    if table.ndim != 2 or len(table) != len(prompts):
        raise ValueError(
            f"log_probabilities has shape {table.shape}; it must be ({len(prompts)}, vocabulary)."
        )
    if np.isnan(table).any():
        raise ValueError("log_probabilities has a nan; all must be numbers.")
    allowed = set(candidates)
    for prompt in prompts:
        if prompt.answer not in allowed:
            raise ValueError(f"answer is {prompt.answer!r}; it must be one of the candidates.")

    def tokens(words: Sequence[str]) -> np.ndarray:
        for word in words:
            if word not in token_of:
                raise ValueError(f"word is {word!r}; token_of must have it.")
        return np.array([token_of[word] for word in words], dtype=int)

    rows = np.arange(len(prompts))
    answer, generic = tokens([one.answer for one in prompts]), tokens([one.generic for one in prompts])
    has_subject = np.array([bool(one.subject) for one in prompts], dtype=bool)
    subject = tokens([one.subject or one.answer for one in prompts])

    def rank(token: np.ndarray) -> np.ndarray:
        return (table > table[rows, token][:, None]).sum(1).astype(float)

    wrong = [np.exp(row[tokens(one.distractors)]).sum() for row, one in zip(table, prompts, strict=True)]
    among = tokens(list(dict.fromkeys(candidates)))
    as_probable = (table[:, among] >= table[rows, answer][:, None]).sum(1)
    return {
        "answer_probability": np.exp(table[rows, answer]),
        "answer_rank": rank(answer),
        "generic_probability": np.exp(table[rows, generic]),
        "generic_rank": rank(generic),
        "subject_probability": np.where(has_subject, np.exp(table[rows, subject]), np.nan),
        "subject_rank": np.where(has_subject, rank(subject), np.nan),
        "distractor_probability": np.array(wrong, float),
        "margin": table[rows, answer] - table[rows, generic],
        "accuracy": (as_probable == 1).astype(float),
    }
