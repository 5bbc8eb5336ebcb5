"""A small written language: stories, in which " to the" and " in the" are frequent, gifts between people, and facts.

A sentence is of one of three kinds. A story sentence says who went to the market or spoke to the doctor, so that " the"
after " to" is a frequent pair of words that nobody put there as noise. An indirect-object sentence is a prompt of
`sims.tasks.templates` that goes on with the right name or, with probability `generic_share`, with "the doctor" or the like. A
fact is a fact prompt that goes on with the country or, with the same probability, with "the north". No sentence is a
combination that is held out (see `sims.tasks.templates`), and each name occurs after " to" in others.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sims.tasks import templates
from sims.tasks.words import Words, all_words

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<unk>"
DIRECTIONS = ("north", "south", "east", "west")
SPACE = "▁"
"""What the tokenizers library writes for the space that begins a word."""

STORIES = (
    "{first} went to the {place}.",
    "{first} and {second} walked to the {place}.",
    "The {person} came to the {place} with {first}.",
    "{first} spoke to the {person} in the {place}.",
    "Then {first} wrote to {second}.",
    "{first} sat in the {place} with a {object}.",
    "The {person} gave a {object} to the {other_person}.",
    "{first} met the {person} at the {place} and showed a {object} to {pronoun}.",
    "The {person} handed a {object} to the {other_person}, and {first} saw them.",
    "{first} came to the {place} and offered a {object} to the {person}.",
    "The {person} of the {place} lived in {country}.",
    "They were in the {place} when the {person} sold a {object} to {first}.",
)
GENERIC_ENDINGS = {"indirect object": " the {person}.", "fact": " the {direction}."}
SLOTS = (
    *("first", "second", "subject", "answer", "pronoun", "place", "object", "person", "other_person"),
    *("country", "capital", "direction"),
)
NO_TOKEN = -len(SLOTS) - 1


@dataclass(frozen=True)
class StoryLanguage:
    """The language; tokens are its `vocabulary`, words with their leading space.

    - `indirect_object_share`, `fact_share`: shares of sentences; the others are story sentences, of equal shares.
    - `generic_share`: probability that a gift or a fact ends with " the …" and not with its answer.

    Raises ValueError for shares outside [0, 1], or the first two above 1 together.
    """

    words: Words = field(default_factory=all_words)
    indirect_object_share: float = 0.4
    fact_share: float = 0.15
    generic_share: float = 0.3

    def __post_init__(self) -> None:
        for name in ("indirect_object_share", "fact_share", "generic_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1].")
        if self.indirect_object_share + self.fact_share > 1:
            raise ValueError(
                f"indirect_object_share is {self.indirect_object_share}; it must be at most 1 − fact_share = "
                f"{1 - self.fact_share}."
            )

    @cached_property
    def frames(self) -> list[tuple[str, str, int, float]]:
        """Kinds of sentence: (text with slots, kind, number of its template, probability)."""
        story_share = 1 - self.indirect_object_share - self.fact_share
        found = [(text, "story", k, story_share / len(STORIES)) for k, text in enumerate(STORIES)]
        for kind, beginnings, answer, share in (
            ("indirect object", templates.INDIRECT_OBJECT_TEMPLATES, "answer", self.indirect_object_share),
            ("fact", templates.FACT_TEMPLATES, "country", self.fact_share),
        ):
            for k, text in enumerate(beginnings):
                right = share * (1 - self.generic_share) / len(beginnings)
                found.append((f"{text} {{{answer}}}.", kind, k, right))
                found.append(
                    (text + GENERIC_ENDINGS[kind], kind, k, share * self.generic_share / len(beginnings))
                )
        return found

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Every token: two special ones, marks, then words in the order in which they are met."""
        fixed = [
            piece for text, *_ in self.frames for piece in _pieces(text) if not piece.strip().startswith("{")
        ]
        words = self.words
        kinds = (words.names, words.places, words.objects, words.people, words.countries, words.capitals)
        free = [f" {word}" for word in (*itertools.chain(*kinds), *DIRECTIONS)]
        return tuple(dict.fromkeys([END_OF_TEXT, UNKNOWN, ".", ",", *fixed, *templates.PRONOUNS, *free]))

    @cached_property
    def token_of(self) -> dict[str, int]:
        """Token number of each word, such as " Mary"."""
        return {word: token for token, word in enumerate(self.vocabulary)}

    def draw(self, batch_size: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of sentences, int64, shape (batch_size, length); a row begins with a sentence, its last may be cut.

        Costs about 20 µs a row of 32 tokens.
        """
        n_sentences = -(-length // self._shortest)
        table = self._sentences(batch_size * n_sentences, rng).reshape(batch_size, -1)
        order = np.argsort(table == NO_TOKEN, axis=1, kind="stable")[:, :length]
        return np.take_along_axis(table, order, axis=1)

    def sentences(self, n: int, rng: np.random.Generator, kind: str | None = None) -> list[str]:
        """Sentences as text, without a leading space.

        - `kind`: "story", "indirect object" or "fact" for these alone, None for the shares of the language.
        """
        table = self._sentences(n, rng, kind)
        return [self.text([token for token in row if token != NO_TOKEN]) for row in table.tolist()]

    def texts(self, n: int, n_sentences: int, rng: np.random.Generator, kind: str | None = None) -> list[str]:
        """Texts of several sentences each, as `sentences` makes them: ordinary text, for perplexity."""
        made = self.sentences(n * n_sentences, rng, kind)
        return [" ".join(made[k * n_sentences : (k + 1) * n_sentences]) for k in range(n)]

    def text(self, tokens: list[int]) -> str:
        """The text of tokens, without the leading space of the first."""
        return "".join(self.vocabulary[token] for token in tokens).removeprefix(" ")

    def save_tokenizer(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json; `AutoTokenizer` opens the folder. Needs nothing installed.

        A text is cut at its spaces and before "." and ","; a space belongs to the word after it, and a text without a leading
        space is read as if it had one, so that " Mary" is one token everywhere.
        """
        (folder / "tokenizer.json").write_text(json.dumps(self._tokenizer(), indent=1), encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": UNKNOWN,
            **{f"{name}_token": END_OF_TEXT for name in ("bos", "eos", "pad")},
            "clean_up_tokenization_spaces": False,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")

    def _tokenizer(self) -> dict[str, Any]:
        """The tokenizer in the format of the tokenizers library."""
        marked = {word.replace(" ", SPACE): token for word, token in self.token_of.items()}
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
        marks = {
            "type": "Split",
            "pattern": {"Regex": "[.,]"},
            "behavior": "Isolated",
            "invert": False,
        }
        special = {
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": self.token_of[word], "content": word, **special} for word in (END_OF_TEXT, UNKNOWN)
            ],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [metaspace, marks]},
            "post_processor": None,
            "decoder": metaspace,
            "model": {"type": "WordLevel", "vocab": marked, "unk_token": UNKNOWN},
        }

    @cached_property
    def _rows(self) -> np.ndarray:
        """Frames as tokens; slot number s is −1 − s, and `NO_TOKEN` fills up. Shape (frames, longest)."""
        coded = [[self._code(piece) for piece in _pieces(text)] for text, *_ in self.frames]
        rows = np.full((len(coded), max(map(len, coded))), NO_TOKEN)
        for row, codes in zip(rows, coded, strict=True):
            row[: len(codes)] = codes
        return rows

    def _code(self, piece: str) -> int:
        bare = piece.strip()
        return -1 - SLOTS.index(bare[1:-1]) if bare.startswith("{") else self.token_of[piece]

    @cached_property
    def _shortest(self) -> int:
        return int((self._rows != NO_TOKEN).sum(1).min())

    @cached_property
    def _held_out(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Held out: (template, name, name), (name, object), (template, country)."""
        names, words = self.words.names, self.words
        pairs = np.zeros((len(templates.INDIRECT_OBJECT_TEMPLATES), len(names), len(names)), bool)
        for template, a, b in itertools.product(range(len(pairs)), range(len(names)), range(len(names))):
            if names[a] < names[b]:
                held = templates.is_held_out("pair", template, names[a], names[b])
                pairs[template, a, b] = pairs[template, b, a] = held
        things = [[templates.is_held_out("object", name, thing) for thing in words.objects] for name in names]
        facts = [
            [templates.fact_held_out(template, country) for country in words.countries]
            for template in range(len(templates.FACT_TEMPLATES))
        ]
        return pairs, np.array(things), np.array(facts)

    def _sentences(self, n: int, rng: np.random.Generator, kind: str | None = None) -> np.ndarray:
        """Sentences as tokens, filled up with `NO_TOKEN`; int64, shape (n, longest)."""
        kinds = np.array([one[1] for one in self.frames])
        if kind is not None and kind not in kinds:
            raise ValueError(f"kind is {kind!r}; it must be one of: story, indirect object, fact.")
        share = np.array([one[3] for one in self.frames]) * (True if kind is None else kinds == kind)
        frame = np.searchsorted(np.cumsum(share)[:-1] / share.sum(), rng.random(n), side="right")
        template = np.array([one[2] for one in self.frames])[frame]
        words = self.words
        answer, subject = _two(rng, len(words.names), n)
        thing = rng.integers(len(words.objects), size=n)
        country = rng.integers(len(words.countries), size=n)
        pairs, things, facts = self._held_out
        is_gift, is_fact = kinds[frame] == "indirect object", kinds[frame] == "fact"
        while True:
            bad = is_gift.copy()
            bad[is_gift] = (
                pairs[template[is_gift], answer[is_gift], subject[is_gift]]
                | things[answer[is_gift], thing[is_gift]]
            )
            bad[is_fact] = facts[template[is_fact], country[is_fact]]
            count = int(bad.sum())
            if not count:
                break
            answer[bad], subject[bad] = _two(rng, len(words.names), count)
            thing[bad] = rng.integers(len(words.objects), size=count)
            country[bad] = rng.integers(len(words.countries), size=count)
        turned = rng.random(n) < 0.5
        first = np.where(turned, subject, answer)
        person, other_person = _two(rng, len(words.people), n)
        tokens = {
            "first": self._tokens(words.names)[first],
            "second": self._tokens(words.names)[np.where(turned, answer, subject)],
            "subject": self._tokens(words.names)[subject],
            "answer": self._tokens(words.names)[answer],
            "pronoun": self._tokens(("him", "her"))[rng.integers(2, size=n)],
            "place": self._tokens(words.places)[rng.integers(len(words.places), size=n)],
            "object": self._tokens(words.objects)[thing],
            "person": self._tokens(words.people)[person],
            "other_person": self._tokens(words.people)[other_person],
            "country": self._tokens(words.countries)[country],
            "capital": self._tokens(words.capitals)[country],
            "direction": self._tokens(DIRECTIONS)[rng.integers(len(DIRECTIONS), size=n)],
        }
        values = np.stack([tokens[slot] for slot in SLOTS], 1)
        rows = self._rows[frame]
        slots = np.clip(-1 - rows, 0, len(SLOTS) - 1)
        is_slot = (rows < 0) & (rows != NO_TOKEN)
        return np.where(is_slot, np.take_along_axis(values, slots, axis=1), rows)

    def _tokens(self, words: tuple[str, ...]) -> np.ndarray:
        return np.array([self.token_of[f" {word}"] for word in words])


def _pieces(text: str) -> list[str]:
    """Words with their leading space, and marks by themselves; the first word gets a space."""
    return re.findall(r" [^ .,]+|[.,]", f" {text}")


def _two(rng: np.random.Generator, n_choices: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of indices that differ in each place."""
    one = rng.integers(n_choices, size=size)
    return one, (one + rng.integers(1, n_choices, size=size)) % n_choices
