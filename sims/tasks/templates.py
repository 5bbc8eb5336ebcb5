"""Sentences of which prompts are the beginnings, and which combinations of their words are held out.

An indirect-object sentence names two people; the second time one of them is named, as the one who gives, the other is the one
who receives. The idea is of Wang et al. (arXiv 2211.00593), the sentences are our own. A fact names a capital and asks for its
country.

Held out, by a fixed hash of the words, is one in eight of each of (pair of names, template), (answer, object) and (country,
template): `sims.tasks.story_language` never makes these, `sims.tasks.prompts` may ask for them alone.
"""

from __future__ import annotations

import hashlib

GENERIC = " the"
PRONOUNS = (" him", " her", " them")
INDIRECT_OBJECT_TEMPLATES = (
    "When {first} and {second} went to the {place}, {subject} gave a {object} to",
    "After {first} and {second} met at the {place}, {subject} handed a {object} to",
    "While {first} and {second} were in the {place}, {subject} showed a {object} to",
    "Then {first} walked to the {place} with {second}, and {subject} sold a {object} to",
    "{first} and {second} sat in the {place}, where {subject} offered a {object} to",
    "At the {place} {first} saw {second}, and {subject} passed a {object} to",
)
"""In order 0 the first name is the answer's and the second the subject's (A B … B …), in order 1 the other way round."""
FACT_TEMPLATES = (
    "{capital} is a city in",
    "The city of {capital} lies in",
    "The people of {capital} live in",
    "They went to {capital}, a city in",
)
HELD_OUT_ONE_IN = 8


def is_held_out(*words: str | int) -> bool:
    """Whether a combination is held out, one in eight; the same on every machine and for every part of the table."""
    return hashed(*words) % HELD_OUT_ONE_IN == 0


def indirect_object_held_out(template: int, answer: str, subject: str, thing: str) -> bool:
    """Whether the pair of names, in either order, is held out in this template, or the answer with this object."""
    pair = sorted((answer, subject))
    return is_held_out("pair", template, *pair) or is_held_out("object", answer, thing)


def fact_held_out(template: int, country: str) -> bool:
    """Whether a country is held out in this template."""
    return is_held_out("fact", template, country)


def hashed(*words: str | int) -> int:
    """A number from 0 to 255, the same on every machine."""
    return hashlib.sha256("|".join(str(word) for word in words).encode()).digest()[0]
