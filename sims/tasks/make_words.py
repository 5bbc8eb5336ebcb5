"""Makes words.json: `python sims/tasks/make_words.py PATH/TO/pythia_tokenizer.json PATH/TO/world_capitals.csv`.

Neither of the two files is kept here. A word of ours stays when it is one token with a leading space under the Pythia
tokenizer. A row of the table of countries stays when its country is one such token that takes no article, its capital is one
word of plain letters that holds no part of the answer, and no other country has the same capital.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FEMALE = """Mary Linda Susan Sarah Karen Lisa Nancy Betty Margaret Sandra Emily Donna Laura Michelle Carol Amanda Melissa
Deborah Stephanie Rebecca Sharon Kathleen Amy Angela Anna Emma Nicole Helen Katherine Rachel Janet Maria Julie Hannah Alice
Julia Jane Kate Lucy Cynthia Brenda Pamela Naomi Stella Zoe"""
MALE = """John James Robert Michael William David Richard Joseph Thomas Daniel Matthew Anthony Paul Steven Andrew Kenneth Kevin
Brian Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary Nicholas Eric Jonathan Stephen Larry Justin Benjamin Samuel Gregory
Patrick Dennis Nathan Henry Peter Arthur Simon"""
PLACES = """shop park garden school market station beach river museum library hotel church office kitchen bridge farm forest
hospital theatre castle harbour cafe bakery village square tower"""
OBJECTS = """book ball ring letter drink cake coat key map bag gift box card cup drum flag flower glass hat knife lamp phone
ticket watch bottle basket coin pencil plate guitar"""
PEOPLE = """teacher doctor driver farmer guard nurse baker singer writer king queen captain priest judge lawyer painter soldier
student"""
MOST = {"female": 32, "male": 32, "places": 24, "objects": 24, "people": 16}
WITH_ARTICLE = frozenset({"Netherlands", "Philippines"})


def table(is_single_token: Callable[[str], bool], countries: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The table: lists of words by kind, and pairs [country, capital] in the order of the alphabet.

    - `is_single_token`: whether a text, given with its leading space, is one token.
    - `countries`: (country, capital).

    Raises ValueError when fewer than `MOST` words of a kind are single tokens.
    """
    candidates = {"female": FEMALE, "male": MALE, "places": PLACES, "objects": OBJECTS, "people": PEOPLE}
    words: dict[str, Any] = {}
    for kind, text in candidates.items():
        kept = [word for word in text.split() if is_single_token(f" {word}")]
        if len(kept) < MOST[kind]:
            raise ValueError(f"{kind} has {len(kept)} single tokens; it must have {MOST[kind]}.")
        words[kind] = kept[: MOST[kind]]
    often = Counter(capital for _, capital in countries)
    words["countries"] = sorted(
        [country, capital]
        for country, capital in countries
        if is_single_token(f" {country}")
        and country not in WITH_ARTICLE
        and capital.isascii()
        and capital.isalpha()
        and country not in capital
        and often[capital] == 1
    )
    return words


def written(words: dict[str, Any]) -> str:
    """The table as the text of the file: one list a line, one country a line."""
    lines = [f'"{kind}": {json.dumps(words[kind])}' for kind in MOST]
    countries = ",\n".join(f"  {json.dumps(pair)}" for pair in words["countries"])
    return "{\n" + ",\n".join(lines) + ',\n"countries": [\n' + countries + "\n]\n}\n"


def make(tokenizer_file: Path, capitals_file: Path) -> str:
    """The text of words.json from the two files. Needs the package `tokenizers`; costs a fifth of a second."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    with capitals_file.open(encoding="utf-8", newline="") as opened:
        countries = [(row["country"], row["capital"]) for row in csv.DictReader(opened)]
    return written(table(lambda text: len(tokenizer.encode(text).ids) == 1, countries))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path, help="pythia_tokenizer.json, in the format of `tokenizers`")
    parser.add_argument("capitals", type=Path, help="world_capitals.csv, with columns country and capital")
    options = parser.parse_args()
    text = make(options.tokenizer, options.capitals)
    Path(__file__).with_name("words.json").write_text(text, encoding="utf-8")
