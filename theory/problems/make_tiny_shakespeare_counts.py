"""Makes tiny_shakespeare_counts.csv: `python theory/problems/make_tiny_shakespeare_counts.py PATH/TO/tinyshakespeare.txt`.

The text itself is not kept here. A row is one character in the order of code points: its code point, how often it occurs, and
how often each of the characters follows it (overlapping pairs).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def counts(text: str) -> np.ndarray:
    """The table of a text, int, shape (characters, characters + 2)."""
    characters = sorted(set(text))
    place = {character: index for index, character in enumerate(characters)}
    tokens = np.array([place[character] for character in text])
    pairs = np.zeros((len(characters), len(characters)), int)
    np.add.at(pairs, (tokens[:-1], tokens[1:]), 1)
    codes = np.array([ord(character) for character in characters])
    return np.column_stack([codes, np.bincount(tokens), pairs])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    table = counts(parser.parse_args().text.read_text(encoding="utf-8"))
    header = "code point, count, counts of the character after it; made by make_tiny_shakespeare_counts.py"
    np.savetxt(Path(__file__).with_name("tiny_shakespeare_counts.csv"), table, "%d", ",", header=header)
