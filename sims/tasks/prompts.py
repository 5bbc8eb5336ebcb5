"""Prompts for a language model: the word that the context or a fact asks for, and the words that compete with it.

"When Mary and John went to the shop, John gave a book to" → " Mary", and "Madrid is a city in" → " Spain"; in both, " the"
follows the last word often, whatever the context says. The sentences are in `sims.tasks.templates`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sims.streams import generator
from sims.tasks.templates import (
    FACT_TEMPLATES,
    GENERIC,
    INDIRECT_OBJECT_TEMPLATES,
    PRONOUNS,
    fact_held_out,
    hashed,
    indirect_object_held_out,
)
from sims.tasks.words import Words, all_words
from theory.problems.checks import integer

TRIES = 100


@dataclass(frozen=True)
class Prompt:
    """A text to be continued.

    - `text`: without a space at its end. All other words have their leading space.
    - `answer`: the right next word. `subject`: the name that is repeated, "" for facts. `generic`: " the".
    - `distractors`: words that could stand there but are wrong or unspecific: `generic`, pronouns, the subject.
    - `template`: its number. `order`: 0 or 1, see the templates; 0 for facts.
    - `held_out`: whether a combination of its words is held out from the stories.
    """

    text: str
    answer: str
    subject: str
    generic: str
    distractors: tuple[str, ...]
    template: int
    order: int
    kind: Literal["indirect object", "fact"]
    held_out: bool


def indirect_object_prompts(
    n: int, seed: int, held_out: bool | None = None, words: Words | None = None
) -> list[Prompt]:
    """Prompts of distinct texts; number i has template i mod 6 and order (i // 6) mod 2: multiples of 12 are balanced.

    Answers are dealt from a shuffled deck of the names, so that each is the answer about equally often.

    - `held_out`: True for combinations that stories never make, False for those that they do, None for both.
    - `words`: by default the whole table.

    Raises ValueError for n or a seed that is no integer (n ≥ 1, seed ≥ 0), and when the words make too few distinct texts.
    """
    words, rng = words or all_words(), generator("prompts", "indirect object", seed)
    deck, made = _deck(words.names, rng), dict[str, Prompt]()
    for place in range(integer("n", n, 1)):
        template = place % len(INDIRECT_OBJECT_TEMPLATES)
        order = place // len(INDIRECT_OBJECT_TEMPLATES) % 2
        for attempt in range(TRIES * len(words.names)):
            if attempt % TRIES == 0:  # a name may be in no combination that is asked for
                answer = next(deck)
            drawn = _indirect_object_prompt(template, order, answer, words, rng)
            if drawn.text not in made and held_out in (None, drawn.held_out):
                made[drawn.text] = drawn
                break
        else:
            raise ValueError(f"n is {n}; of these words no more than {place} distinct prompts were found.")
    return list(made.values())


def _indirect_object_prompt(
    template: int, order: int, answer: str, words: Words, rng: np.random.Generator
) -> Prompt:
    """A prompt whose answer is given; subject, object and place are drawn."""
    subject = _one(rng, [name for name in words.names if name != answer])
    thing, place = _one(rng, words.objects), _one(rng, words.places)
    first, second = (answer, subject) if order == 0 else (subject, answer)
    slots = {"first": first, "second": second, "subject": subject, "object": thing, "place": place}
    return Prompt(
        text=INDIRECT_OBJECT_TEMPLATES[template].format(**slots),
        answer=f" {answer}",
        subject=f" {subject}",
        generic=GENERIC,
        distractors=(GENERIC, *PRONOUNS, f" {subject}"),
        template=template,
        order=order,
        kind="indirect object",
        held_out=indirect_object_held_out(template, answer, subject, thing),
    )


def fact_prompts(n: int, seed: int, held_out: bool | None = None, words: Words | None = None) -> list[Prompt]:
    """Prompts of distinct texts; number i has template i mod 4 as far as there are countries left for it.

    Arguments and errors as for `indirect_object_prompts`; there are as many as countries times templates.
    """
    words, rng = words or all_words(), generator("prompts", "fact", seed)
    made: list[list[Prompt]] = []
    for template in range(len(FACT_TEMPLATES)):
        column = [_fact_prompt(template, words, k) for k in rng.permutation(len(words.countries))]
        made.append([one for one in column if held_out in (None, one.held_out)])
    longest = max(len(column) for column in made)
    dealt = [column[row] for row in range(longest) for column in made if row < len(column)]
    if integer("n", n, 1) > len(dealt):
        raise ValueError(f"n is {n}; it must be at most {len(dealt)}, as these words make no more facts.")
    return dealt[:n]


def _fact_prompt(template: int, words: Words, place: int) -> Prompt:
    country = words.countries[place]
    return Prompt(
        text=FACT_TEMPLATES[template].format(capital=words.capitals[place]),
        answer=f" {country}",
        subject="",
        generic=GENERIC,
        distractors=(GENERIC, *PRONOUNS),
        template=template,
        order=0,
        kind="fact",
        held_out=fact_held_out(template, country),
    )


def halves(prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Two disjoint parts, one to choose by and one to report on; every (template, order) is dealt to them by turns.

    Facts of one country go to the same part, as they share what the model has learnt.
    """
    parts: tuple[list[Prompt], list[Prompt]] = ([], [])
    seen: Counter[tuple[int, int]] = Counter()
    for prompt in prompts:
        cell = prompt.template, prompt.order
        part = hashed("half", prompt.answer) if prompt.kind == "fact" else seen[cell]
        parts[part % 2].append(prompt)
        seen[cell] += 1
    return parts


def single_token_ids(tokenizer: Any, words: Sequence[str]) -> tuple[int, ...]:
    """Token of each word as it follows a text; the check that a prompt can be scored by one token.

    A word counts as a single token when "to" is continued by exactly one token, which is not the unknown one.

    - `tokenizer`: of `transformers`, or of `tokenizers`. `words`: with their leading space.

    Raises ValueError that names the first word that is none.
    """
    before = _token_ids(tokenizer, " to")
    found = []
    for word in words:
        tokens = _token_ids(tokenizer, f" to{word}")
        alone = tokens[: len(before)] == before and len(tokens) == len(before) + 1
        if not alone or tokenizer.decode(tokens[-1:]).strip() != word.strip():
            count = max(len(tokens) - len(before), 0)
            raise ValueError(
                f"word {word!r} is {count} tokens, or unknown; it must be a single token of the tokenizer."
            )
        found.append(tokens[-1])
    return tuple(found)


def prompt_words(prompts: Sequence[Prompt]) -> list[str]:
    """Every word of prompts that must be a single token: answers, subjects, generic words and distractors, each once."""
    found: dict[str, None] = {}
    for prompt in prompts:
        for word in (prompt.answer, prompt.subject, prompt.generic, *prompt.distractors):
            if word:
                found[word] = None
    return list(found)


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    encoded = tokenizer.encode(text, add_special_tokens=False)
    return list(getattr(encoded, "ids", encoded))


def _deck(cards: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    while True:
        yield from (cards[k] for k in rng.permutation(len(cards)))


def _one(rng: np.random.Generator, given: Sequence[str]) -> str:
    return given[int(rng.integers(len(given)))]
