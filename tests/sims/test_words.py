"""The table of words: what its maker makes of the shared files is what is kept, and the maker's rules."""

from pathlib import Path

import pytest

from sims.source import ROOT
from sims.tasks import make_words
from sims.tasks.words import WORDS, all_words, table_digest

SHARED = ROOT.parent / "shared/data"


def test_the_table_is_what_its_maker_makes() -> None:
    pytest.importorskip("tokenizers", reason="needs the extra `pretrained`")
    files = SHARED / "pythia_tokenizer.json", SHARED / "world_capitals.csv"
    if not all(one.is_file() for one in files):
        pytest.skip(f"the files the table is made from are not in {SHARED}")
    assert make_words.make(*files) == WORDS.read_text(encoding="utf-8")


def test_the_table_has_no_word_twice_and_its_names_are_balanced() -> None:
    words = all_words()
    nouns = [*words.names, *words.places, *words.objects, *words.people, *words.countries, *words.capitals]
    assert len(set(nouns)) == len(nouns)
    assert all(word.isalpha() and word.isascii() for word in nouns)
    assert len(words.names) >= 60
    assert len(words.countries) == len(words.capitals) >= 30
    assert set(words.names[::2]) <= set(make_words.FEMALE.split())
    assert set(words.names[1::2]) <= set(make_words.MALE.split())
    assert dict(zip(words.capitals, words.countries, strict=True))["Madrid"] == "Spain"
    # "a" stands before objects and people, so none begins with a vowel.
    assert not [word for word in (*words.objects, *words.people) if word[0] in "aeiou"]


def test_only_countries_that_ask_for_one_answer_stay() -> None:
    rows = [
        *(("Spain", "Madrid"), ("Peru", "Lima"), ("Netherlands", "Amsterdam"), ("Singapore", "Singapore")),
        *(
            ("Panama", "Panama City"),
            ("Brazil", "Brasília"),
            ("Israel", "Jerusalem"),
            ("Palestine", "Jerusalem"),
        ),
        ("Hungary", "Budapest"),
    ]
    table = make_words.table(lambda text: text != " Hungary", rows)
    assert table["countries"] == [["Peru", "Lima"], ["Spain", "Madrid"]]
    assert {kind: len(table[kind]) for kind in make_words.MOST} == make_words.MOST


def test_too_few_single_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"places has 0 single tokens; it must have 24\."):
        make_words.table(lambda text: text[1:] not in make_words.PLACES.split(), [])


def test_a_part_of_the_table_is_its_beginning() -> None:
    part = all_words().first(8, 4, 5, 3, 6)
    assert part.names == all_words().names[:8]
    assert (len(part.places), len(part.objects), len(part.people)) == (4, 5, 3)
    assert part.countries == all_words().countries[:6]
    assert part.capitals == all_words().capitals[:6]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((7, 4, 4, 4, 4), r"n_names is 7; it must be even, half women's names and half men's\."),
        ((8, 1, 4, 4, 4), r"n_places is 1; it must be at least 2\."),
        ((8, 4, 4, 4, 65), r"n_countries is 65; it must be at most 64\."),
    ],
)
def test_a_wrong_part_is_refused(numbers: tuple[int, int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        all_words().first(*numbers)


def test_the_digest_is_of_the_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = table_digest()
    text = WORDS.read_text(encoding="utf-8")
    monkeypatch.setattr("sims.tasks.words.WORDS", tmp_path / "words.json")
    (tmp_path / "words.json").write_text(text.replace(", ", ",\n"), encoding="utf-8")
    assert table_digest() == before
    (tmp_path / "words.json").write_text(text.replace("Madrid", "Toledo"), encoding="utf-8")
    assert table_digest() != before
