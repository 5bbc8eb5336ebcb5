"""Ordinary text for the perplexity of a language model: short paragraphs of our own in prose.txt, or a file of the reader's."""

from __future__ import annotations

import re
from pathlib import Path

PROSE = Path(__file__).with_name("prose.txt")


def paragraphs(path: Path) -> list[str]:
    """The paragraphs of a text file, which stand apart by empty lines; line breaks within one become spaces.

    Raises ValueError, one sentence, for a file that is missing, is no UTF-8 text, or has no paragraph.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"texts is {str(path)!r}; it cannot be read ({type(error).__name__}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"texts is {str(path)!r}; it must be a text file in UTF-8.") from error
    found = [" ".join(one.split()) for one in re.split(r"\n\s*\n", text) if one.strip()]
    if not found:
        raise ValueError(f"texts is {str(path)!r}; the file must have at least one paragraph.")
    return found
