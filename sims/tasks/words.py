"""Words of which prompts and stories are made: names, places, objects, people, countries with their capitals.

They lie in words.json, which make_words.py makes; each, but for capitals, is one token with a leading space under the
Pythia tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from theory.problems.checks import integer

WORDS = Path(__file__).with_name("words.json")


@dataclass(frozen=True)
class Words:
    """A table of words without spaces.

    - `names`: first names, women's at even places and men's at odd ones. `places`, `objects`, `people`: nouns that follow
      "the" or "a". `countries`, `capitals`: a capital has the place of its country.
    """

    names: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]
    people: tuple[str, ...]
    countries: tuple[str, ...]
    capitals: tuple[str, ...]

    def first(self, n_names: int, n_places: int, n_objects: int, n_people: int, n_countries: int) -> Words:
        """The first words of each kind. Raises ValueError for a number below 2 or above what there is, or odd names."""
        asked = {"names": n_names, "places": n_places, "objects": n_objects, "people": n_people}
        asked["countries"] = n_countries
        for kind, number in asked.items():
            if integer(f"n_{kind}", number, 2) > len(getattr(self, kind)):
                raise ValueError(f"n_{kind} is {number}; it must be at most {len(getattr(self, kind))}.")
        if n_names % 2:
            raise ValueError(f"n_names is {n_names}; it must be even, half women's names and half men's.")
        kept = {kind: getattr(self, kind)[:number] for kind, number in asked.items()}
        return Words(**kept, capitals=self.capitals[:n_countries])


@cache
def all_words() -> Words:
    """The whole table: 64 names, 24 places, 24 objects, 16 people, 64 countries."""
    table = json.loads(WORDS.read_text(encoding="utf-8"))
    names = [name for pair in zip(table["female"], table["male"], strict=True) for name in pair]
    countries, capitals = zip(*table["countries"], strict=True)
    kinds = {kind: tuple(table[kind]) for kind in ("places", "objects", "people")}
    return Words(tuple(names), **kinds, countries=countries, capitals=capitals)


def table_digest() -> str:
    """Digest (64 hexadecimal digits) of the table, for the identity of what was made with it."""
    table = json.loads(WORDS.read_text(encoding="utf-8"))
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
