"""The language says what it promises, makes no held-out combination, and its tokenizer opens everywhere."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims.statistics import z_threshold
from sims.tasks import prompts, story_language, templates
from sims.tasks.story_language import StoryLanguage
from sims.tasks.templates import FACT_TEMPLATES, INDIRECT_OBJECT_TEMPLATES
from sims.tasks.words import all_words

LANGUAGE = StoryLanguage()
SMALL = StoryLanguage(all_words().first(8, 4, 4, 4, 4))


def pattern(template: str, ending: str) -> re.Pattern[str]:
    """A template whose slots are groups; a slot that comes twice must hold the same word."""
    seen: set[str] = set()
    text = re.escape(template + ending).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(
        re.sub(
            r"\{(\w+)\}",
            lambda slot: (
                f"(?P={slot[1]})" if slot[1] in seen else seen.add(slot[1]) or f"(?P<{slot[1]}>\\w+)"
            ),
            text,
        )
    )


GIFTS = [pattern(one, r" {answer}.") for one in INDIRECT_OBJECT_TEMPLATES]
GENERIC_GIFTS = [pattern(one, r" the {person}.") for one in INDIRECT_OBJECT_TEMPLATES]
FACTS = [pattern(one, r" {country}.") for one in FACT_TEMPLATES]


def sentences(language: StoryLanguage, n: int, kind: str | None = None) -> list[str]:
    return language.sentences(n, np.random.default_rng(1), kind)


def test_a_gift_ends_with_the_other_name_or_a_person_and_is_never_held_out() -> None:
    n, named, generic = 4000, 0, 0
    answers, orders = set(), Counter()
    for text in sentences(LANGUAGE, n, "indirect object"):
        for template, (right, unspecific) in enumerate(zip(GIFTS, GENERIC_GIFTS, strict=True)):
            if found := right.fullmatch(text):
                got = found.groupdict()
                assert {got["answer"], got["subject"]} == {got["first"], got["second"]}
                assert got["answer"] != got["subject"]
                held = templates.indirect_object_held_out(
                    template, got["answer"], got["subject"], got["object"]
                )
                assert not held, text
                answers.add(got["answer"])
                orders[got["answer"] == got["first"]] += 1
                named += 1
            elif found := unspecific.fullmatch(text):
                assert found["person"] in LANGUAGE.words.people
                generic += 1
    assert named + generic == n
    # a binomial share: z standard errors, of the suite's false-alarm rate
    assert abs(generic / n - 0.3) < z_threshold(1) * np.sqrt(0.3 * 0.7 / n)
    assert abs(orders[True] / named - 0.5) < z_threshold(1) * np.sqrt(0.25 / named)
    assert answers == set(LANGUAGE.words.names)


def test_facts_are_right_and_never_held_out() -> None:
    country_of = dict(zip(LANGUAGE.words.capitals, LANGUAGE.words.countries, strict=True))
    told = 0
    for text in sentences(LANGUAGE, 2000, "fact"):
        for template, one in enumerate(FACTS):
            if (found := one.fullmatch(text)) and found["country"] != "the":
                assert country_of[found["capital"]] == found["country"]
                assert not templates.fact_held_out(template, found["country"])
                told += 1
    assert abs(told / 2000 - 0.7) < z_threshold(1) * np.sqrt(0.3 * 0.7 / 2000)


def test_the_generic_word_follows_prepositions_often_in_stories() -> None:
    """The association is one of ordinary sentences: most words after " to" and " in" are " the"."""
    pairs = Counter(pair for text in sentences(LANGUAGE, 3000, "story") for pair in pairwise(text.split()))
    for before in ("to", "in", "at"):
        after = {pair[1]: count for pair, count in pairs.items() if pair[0] == before}
        assert after["the"] / sum(after.values()) > 0.6
    assert max(pairs, key=pairs.__getitem__)[1] == "the"


def test_shares_of_sentences() -> None:
    n = 5000
    texts = sentences(LANGUAGE, n)
    facts = sum(any(pattern(one, " ").match(text) for one in FACT_TEMPLATES) for text in texts)
    gifts = sum(any(pattern(one, " ").match(text) for one in INDIRECT_OBJECT_TEMPLATES) for text in texts)
    for count, share in ((facts, 0.15), (gifts, 0.4)):
        assert abs(count / n - share) < z_threshold(2) * np.sqrt(share * (1 - share) / n)


@given(
    batch_size=st.integers(1, 5),
    length=st.integers(1, 40),
    seed=st.integers(0, 1000),
    language=st.sampled_from([LANGUAGE, SMALL]),
)
def test_rows_are_sentences_from_their_beginning(
    batch_size: int, length: int, seed: int, language: StoryLanguage
) -> None:
    rows = language.draw(batch_size, length, np.random.default_rng(seed))
    assert rows.shape == (batch_size, length)
    assert rows.dtype == np.int64
    assert rows.min() >= 2  # no special token, and no filling
    assert rows.max() < len(language.vocabulary)
    for row in rows:
        text = language.text(row.tolist())
        assert text[0].isupper()
        # a sentence ends before the next begins
        assert all(one[:1].isupper() for one in text.split(". "))
    again = language.draw(batch_size, length, np.random.default_rng(seed))
    np.testing.assert_array_equal(rows, again)


def test_all_prompts_can_be_asked_of_the_language() -> None:
    for language in (LANGUAGE, SMALL):
        words = language.words
        asked = [
            *prompts.indirect_object_prompts(24, 0, None, words),
            *prompts.fact_prompts(8, 0, None, words),
        ]
        texts = [word for one in asked for word in (one.answer, *one.distractors)]
        assert set(texts) <= set(language.vocabulary)
        pieces = {piece for one in asked for piece in story_language._pieces(one.text)}
        assert pieces <= set(language.vocabulary)
    assert len(SMALL.vocabulary) < len(LANGUAGE.vocabulary) < 400


def test_the_tokenizer_reads_texts_as_the_language_writes_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra `pretrained`")
    LANGUAGE.save_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    for text in LANGUAGE.texts(20, 3, rng):
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert LANGUAGE.text(tokens) == text
        assert tokenizer(text)["input_ids"] == tokens  # nothing is added around a text
        assert tokenizer.decode(tokens) == text
    assert tokenizer.encode(" Mary") == tokenizer.encode("Mary") == [LANGUAGE.token_of[" Mary"]]
    assert len(tokenizer) == len(LANGUAGE.vocabulary)
    assert tokenizer.pad_token == tokenizer.eos_token == story_language.END_OF_TEXT
    words = prompts.prompt_words([*prompts.indirect_object_prompts(48, 0), *prompts.fact_prompts(48, 0)])
    assert prompts.single_token_ids(tokenizer, words) == tuple(LANGUAGE.token_of[word] for word in words)
    with pytest.raises(ValueError, match="word ' Xylophilia' is 1 tokens, or unknown"):
        prompts.single_token_ids(tokenizer, [" Xylophilia"])


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"generic_share is 1\.5; it must be in \[0, 1\]\."):
        StoryLanguage(generic_share=1.5)
    with pytest.raises(ValueError, match=r"indirect_object_share is 0\.9; it must be at most 1 − fact_share"):
        StoryLanguage(indirect_object_share=0.9)
    with pytest.raises(ValueError, match="kind is 'poem'; it must be one of: story, indirect object, fact"):
        LANGUAGE.sentences(1, np.random.default_rng(0), "poem")
