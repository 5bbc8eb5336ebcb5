"""Prompts are balanced, right, and of single tokens; readings of hand-made log-probabilities are what they must be."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.probes.prompt_answers import prompt_readings
from sims.source import ROOT
from sims.tasks import prompts as task
from sims.tasks import templates
from sims.tasks.prompts import Prompt, fact_prompts, indirect_object_prompts
from sims.tasks.words import all_words

N_TEMPLATES = len(templates.INDIRECT_OBJECT_TEMPLATES)
PYTHIA = ROOT.parent / "shared/data/pythia_tokenizer.json"


def names_in(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text) if word in all_words().names]


@given(seed=st.integers(0, 10_000), held_out=st.sampled_from([None, True, False]))
def test_the_answer_is_the_name_that_is_not_repeated(seed: int, held_out: bool | None) -> None:
    for prompt in indirect_object_prompts(13, seed, held_out):
        first, second, third = names_in(prompt.text)
        answer, subject = (first, second) if prompt.order == 0 else (second, first)
        assert (prompt.answer, prompt.subject) == (f" {answer}", f" {subject}")
        assert third == subject != answer
        assert prompt.text.endswith(" to")
        assert prompt.generic == " the"
        assert prompt.distractors == (" the", " him", " her", " them", prompt.subject)
        assert held_out in (None, prompt.held_out)


def test_orders_templates_and_answers_are_balanced() -> None:
    made = indirect_object_prompts(40 * N_TEMPLATES * 2, seed=0)
    cells = Counter((prompt.template, prompt.order) for prompt in made)
    assert len(cells) == N_TEMPLATES * 2
    assert set(cells.values()) == {40}
    assert len({prompt.text for prompt in made}) == len(made)
    # 480 answers from a deck of 64: each name is dealt 7 or 8 times.
    assert set(Counter(prompt.answer for prompt in made).values()) == {7, 8}


def test_equal_seeds_make_equal_prompts_and_longer_lists_begin_alike() -> None:
    assert indirect_object_prompts(20, 3) == indirect_object_prompts(30, 3)[:20]
    assert indirect_object_prompts(20, 3) != indirect_object_prompts(20, 4)
    assert fact_prompts(20, 3) == fact_prompts(30, 3)[:20]
    assert fact_prompts(20, 3) != fact_prompts(20, 4)


def test_one_in_eight_of_each_combination_is_held_out() -> None:
    names = all_words().names
    pairs = [(t, a, b) for t in range(N_TEMPLATES) for a in names for b in names if a < b]
    held = np.mean([templates.is_held_out("pair", *one) for one in pairs])
    # a binomial share of 12096 trials: standard error 0.003, so 0.015 is five of them
    assert abs(held - 1 / 8) < 0.015
    assert templates.indirect_object_held_out(2, "Mary", "John", "book") in (True, False)
    swapped = [
        templates.is_held_out("pair", t, *sorted((b, a))) == templates.is_held_out("pair", t, a, b)
        for t, a, b in pairs
    ]
    assert all(swapped)


def test_facts_are_facts_and_each_country_is_seen_somewhere() -> None:
    words = all_words()
    every = fact_prompts(4 * len(words.countries), 0)
    country_of = dict(zip(words.capitals, words.countries, strict=True))
    for prompt in every:
        (capital,) = (word for word in re.findall(r"\w+", prompt.text) if word in country_of)
        assert prompt.answer == f" {country_of[capital]}"
        assert (prompt.subject, prompt.order, prompt.kind) == ("", 0, "fact")
    assert Counter(prompt.template for prompt in every) == dict.fromkeys(range(4), len(words.countries))
    assert {prompt.answer[1:] for prompt in every if not prompt.held_out} == set(words.countries)
    held = fact_prompts(sum(prompt.held_out for prompt in every), 0, held_out=True)
    assert all(prompt.held_out for prompt in held)
    with pytest.raises(
        ValueError, match=r"n is 257; it must be at most 256, as these words make no more facts\."
    ):
        fact_prompts(257, 0)


def test_halves_are_disjoint_and_balanced() -> None:
    made = indirect_object_prompts(96, 0)
    one, other = task.halves(made)
    assert sorted(map(hash, one + other)) == sorted(map(hash, made))
    for part in (one, other):
        assert set(Counter((prompt.template, prompt.order) for prompt in part).values()) == {4}
    one, other = task.halves(fact_prompts(256, 0))
    assert not {prompt.answer for prompt in one} & {prompt.answer for prompt in other}
    # hashed halves of 64 countries: 16 to 48 is four standard deviations either way
    assert 16 <= len({prompt.answer for prompt in one}) <= 48


def test_too_few_words_are_said() -> None:
    with pytest.raises(
        ValueError, match=r"n is 200; of these words no more than \d+ distinct prompts were found\."
    ):
        indirect_object_prompts(200, 0, None, all_words().first(2, 2, 2, 2, 2))
    with pytest.raises(ValueError, match=r"n is 0; it must be at least 1\."):
        indirect_object_prompts(0, 0)


def test_every_word_is_one_token_of_pythia() -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra `pretrained`")
    if not PYTHIA.is_file():
        pytest.skip(f"{PYTHIA} is not there")
    tokenizer = tokenizers.Tokenizer.from_file(str(PYTHIA))
    words = task.prompt_words([*indirect_object_prompts(480, 0), *fact_prompts(256, 0)])
    ids = task.single_token_ids(tokenizer, words)
    assert [tokenizer.decode([token]) for token in ids] == words
    assert len(set(ids)) == len(words) == 64 + 4 + 64
    with pytest.raises(
        ValueError, match=r"word ' Xylophilia' is \d tokens, or unknown; it must be a single token"
    ):
        task.single_token_ids(tokenizer, [" Mary", " Xylophilia"])
    with pytest.raises(ValueError, match="word ' Bogotá' is 3 tokens"):
        task.single_token_ids(tokenizer, [" Bogotá"])


def gift(answer: str, subject: str) -> Prompt:
    return Prompt("", answer, subject, " the", (" the", " him", subject), 0, 0, "indirect object", False)


def test_readings_of_a_table_made_by_hand() -> None:
    token_of = {" Mary": 0, " John": 1, " the": 2, " him": 3, " other": 4}
    chances = np.array(
        [[0.4, 0.1, 0.3, 0.05, 0.15], [0.1, 0.2, 0.5, 0.1, 0.1], [0.3, 0.0, 0.3, 0.1, 0.3]], dtype=float
    )
    fact = Prompt("", " Mary", "", " the", (" the",), 0, 0, "fact", False)
    prompts = [gift(" Mary", " John"), gift(" John", " Mary"), fact]
    with np.errstate(divide="ignore"):
        logs = np.log(chances)
    got = prompt_readings(logs, prompts, token_of, [" Mary", " John", " the"])
    wanted = {
        "answer_probability": [0.4, 0.2, 0.3],
        "answer_rank": [0, 1, 0],
        "generic_probability": [0.3, 0.5, 0.3],
        "generic_rank": [1, 0, 0],
        "subject_probability": [0.1, 0.1, np.nan],
        "subject_rank": [3, 2, np.nan],
        "distractor_probability": [0.45, 0.7, 0.3],
        "margin": np.log([4 / 3, 2 / 5, 1]),
        "accuracy": [1, 0, 0],
    }
    assert got.keys() == wanted.keys()
    for name, values in wanted.items():
        # rounding of exp and log alone
        np.testing.assert_allclose(got[name], values, rtol=1e-12, atol=1e-15, err_msg=name)
    # without " the" among the candidates, the second is right too, and the third has no rival
    named = prompt_readings(logs, prompts, token_of, [" Mary", " John"])
    assert list(named["accuracy"]) == [1, 1, 1]
    on_torch = prompt_readings(torch.from_numpy(logs), prompts, token_of, [" Mary", " John", " the"])
    np.testing.assert_array_equal(on_torch["margin"], got["margin"])


@given(shift=st.floats(-5, 5), seed=st.integers(0, 1000))
def test_margins_ranks_and_accuracy_do_not_see_a_shift_of_logits(shift: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(4, 6))
    prompts = [gift(" 1", " 2"), gift(" 2", " 1")] * 2
    token_of = {" the": 0, " 1": 1, " 2": 2, " him": 3}
    plain, moved = (
        prompt_readings(one, prompts, token_of, [" 1", " 2", " the"]) for one in (logits, logits + shift)
    )
    for name in ("answer_rank", "subject_rank", "accuracy", "margin"):
        # logits of size 10 in double precision; rounding may reorder only exact ties, of which there are none
        np.testing.assert_allclose(plain[name], moved[name], atol=1e-13)


def test_wrong_readings_are_refused() -> None:
    prompts, token_of = [gift(" 1", " 2")], {" the": 0, " 1": 1, " 2": 2, " him": 3}
    logs, candidates = np.zeros((1, 5)), [" 1", " 2"]
    with pytest.raises(ValueError, match=r"has shape \(2, 5\); it must be \(1, vocabulary\)\."):
        prompt_readings(np.zeros((2, 5)), prompts, token_of, candidates)
    with pytest.raises(ValueError, match="answer is ' 1'; it must be one of the candidates"):
        prompt_readings(logs, prompts, token_of, [" 2"])
    with pytest.raises(ValueError, match="word is ' 3'; token_of must have it"):
        prompt_readings(logs, prompts, token_of, [" 1", " 3"])
    with pytest.raises(ValueError, match="log_probabilities has a nan"):
        prompt_readings(logs * np.nan, prompts, token_of, candidates)
