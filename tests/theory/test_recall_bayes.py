"""The Bayes-optimal answer and its risk: against Bayes' rule on enumerated sequences, which knows nothing of triggers."""

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings

from tests.enumeration import enumeration
from tests.strategies import noisy_recalls
from theory.noisy_recall import (
    bayes_answers,
    bayes_risk,
    draw_sequences,
    entropy,
    monte_carlo_risk,
    scored_positions,
    unrevealed_answer,
    unrevealed_probability,
)
from theory.problems import MarkovChain, NoisyRecall

ROUNDING = 1e-11
"""Hundreds of probabilities are added, and divided by sums down to 1e-3 of them at the noise level 0.999: 1e-16 × 100 × 1e3."""

TINY = {
    "theory": NoisyRecall.theory_version(3, 5, 0.4),
    "theory, no noise": NoisyRecall.theory_version(4, 5, 0.0),
    "theory, zipf": NoisyRecall.theory_version(4, 5, 0.6, MarkovChain.zipf_dirichlet(4, seed=4), trigger=2),
    "last, noise a target": NoisyRecall(
        MarkovChain.zipf_dirichlet(4, seed=2), 5, 0.35, (1,), 2, (0, 1, 2), "last"
    ),
    "last, noise a target, no noise": NoisyRecall(MarkovChain.uniform(3), 5, 0.0, (1,), 2, (0, 2), "last"),
    "repeated": NoisyRecall.experiment_version(MarkovChain.uniform(3), 5, 0.5, 2),
    "repeated, zipf": NoisyRecall.experiment_version(MarkovChain.zipf_dirichlet(4, seed=7), 5, 0.3, 1),
    "repeated, no noise": NoisyRecall.experiment_version(MarkovChain.zipf_dirichlet(3), 6, 0.0, 1, (0,)),
    "repeated, noise no target": NoisyRecall(
        MarkovChain.zipf_dirichlet(3), 6, 0.7, (0,), 2, (0, 1), "repeated"
    ),
    "repeated, noise the only target": NoisyRecall(MarkovChain.uniform(3), 5, 0.3, (0,), 2, (2,), "repeated"),
}
TWO = {
    "two": NoisyRecall.experiment_version(MarkovChain.zipf_dirichlet(3, seed=3), 5, 0.3, 1, 2),
    "two, no noise": NoisyRecall.experiment_version(MarkovChain.uniform(3), 5, 0.0, 0, 2),
    "two, few targets": NoisyRecall(
        MarkovChain.zipf_dirichlet(4, 0.5, 1.0), 4, 0.55, (3, 1), 2, (0, 3), "repeated"
    ),
}
ALL = {**TINY, **TWO}


def is_scored(problem: NoisyRecall, prefix: tuple[int, ...]) -> bool:
    """Whether the token after this beginning of a sequence is to be predicted, from the definition."""
    if problem.scored == "last":
        return len(prefix) == problem.context_length
    return prefix[-1] in problem.triggers and prefix[-1] in prefix[:-1]


def brute_posterior(problem: NoisyRecall) -> dict[tuple[int, ...], np.ndarray]:
    """Scored beginning → P(beginning and next token), shape (V,), summed over all sequences and targets."""
    joint: dict[tuple[int, ...], np.ndarray] = defaultdict(lambda: np.zeros(problem.vocabulary_size))
    every = enumeration(problem)
    for sequence, probability in zip(every.tokens.tolist(), every.probability, strict=True):
        for length in range(1, problem.context_length + 1):
            prefix = tuple(sequence[:length])
            if is_scored(problem, prefix):
                joint[prefix][sequence[length]] += probability
    return joint


def brute_risk(problem: NoisyRecall) -> tuple[float, float]:
    """(Expected loss per scored position, expected scored positions) of the conditional probabilities of the next token."""
    total = scored = 0.0
    for weights in brute_posterior(problem).values():
        seen = weights[weights > 0]
        total -= float(seen @ np.log(seen / seen.sum()))
        scored += float(seen.sum())
    return total / scored if scored else math.nan, scored


def brute_unrevealed(problem: NoisyRecall) -> float:
    """Share of scored positions before which no trigger was followed by anything but the noise token."""
    every, open_places, scored = enumeration(problem), 0.0, 0.0
    free = problem.context_length - (problem.scored == "last")
    for sequence, probability in zip(every.tokens.tolist(), every.probability, strict=True):
        for length in range(1, problem.context_length + 1):
            prefix = sequence[:length]
            if is_scored(problem, tuple(prefix)):
                after = [
                    prefix[t + 1]
                    for t in range(min(length, free) - 1)
                    if prefix[t] == prefix[-1] and prefix[t + 1] != problem.noise_token
                ]
                scored += probability
                open_places += probability * (not after)
    return open_places / scored


def check_answers(problem: NoisyRecall) -> None:
    joint = brute_posterior(problem)
    contexts = np.unique(enumeration(problem).tokens[:, :-1], axis=0)
    places, answers = bayes_answers(problem, contexts)
    np.testing.assert_array_equal(places, np.argwhere(scored_positions(problem, contexts)))
    seen = set()
    for (row, column), answer in zip(places.tolist(), answers, strict=True):
        prefix = tuple(contexts[row, : column + 1].tolist())
        np.testing.assert_allclose(
            answer, joint[prefix] / joint[prefix].sum(), rtol=0, atol=ROUNDING, err_msg=f"after {prefix}"
        )
        seen.add(prefix)
    assert seen == set(joint)


@pytest.mark.parametrize("name", ALL)
def test_answers_are_bayes_rule(name: str) -> None:
    check_answers(ALL[name])


@settings(deadline=None, max_examples=25)
@given(problem=noisy_recalls())
def test_answers_of_random_problems_are_bayes_rule(problem: NoisyRecall) -> None:
    check_answers(problem)


@pytest.mark.parametrize("name", TINY)
def test_risk_against_enumeration(name: str) -> None:
    problem = TINY[name]
    found, (risk, scored) = bayes_risk(problem), brute_risk(problem)
    assert found.risk == pytest.approx(risk, rel=ROUNDING, abs=ROUNDING)
    assert found.scored == pytest.approx(scored, rel=ROUNDING)
    assert found.unrevealed == pytest.approx(brute_unrevealed(problem), abs=ROUNDING)


@settings(deadline=None, max_examples=40)
@given(problem=noisy_recalls().filter(lambda problem: len(problem.triggers) == 1))
def test_risk_of_random_problems_against_enumeration(problem: NoisyRecall) -> None:
    found, (risk, scored) = bayes_risk(problem), brute_risk(problem)
    assert found.scored == pytest.approx(scored, abs=ROUNDING)
    if scored > 1e-9:  # otherwise a ratio of roundings
        assert found.risk == pytest.approx(risk, rel=ROUNDING, abs=ROUNDING)
        assert found.unrevealed == pytest.approx(brute_unrevealed(problem), abs=ROUNDING)


def test_nothing_scored_has_no_risk() -> None:
    """The trigger never occurs: token 0 is neither a first token nor anyone's successor."""
    rows = np.array([[0, 0.5, 0.5], [0, 0.5, 0.5], [0, 0.5, 0.5]])
    chain = MarkovChain(np.array([0, 0.5, 0.5]), rows)
    found = bayes_risk(NoisyRecall.experiment_version(chain, 5, 0.3, 1, (0,)))
    assert math.isnan(found.risk)
    assert found.scored == 0
    assert math.isnan(found.unrevealed)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [1e-3, 0.3])
def test_no_other_answer_is_better(name: str, size: float) -> None:
    """Answers moved at random, renormalised: the expected loss over all sequences only grows."""
    problem, rng = TINY[name], np.random.default_rng(3)
    joint = brute_posterior(problem)
    weights = np.array(list(joint.values()))
    contexts = np.unique(enumeration(problem).tokens[:, :-1], axis=0)
    places, answers = bayes_answers(problem, contexts)
    by_prefix = {
        tuple(contexts[row, : column + 1].tolist()): answer
        for (row, column), answer in zip(places.tolist(), answers, strict=True)
    }
    best = np.array([by_prefix[prefix] for prefix in joint])

    def loss(probabilities: np.ndarray) -> float:
        return float(-np.sum(weights[weights > 0] * np.log(probabilities[weights > 0])) / weights.sum())

    # The answers' own loss is the Bayes risk, up to rounding.
    assert loss(best) == pytest.approx(bayes_risk(problem).risk, rel=ROUNDING, abs=ROUNDING)
    for _ in range(20):
        moved = (best + 1e-6) * np.exp(size * rng.standard_normal(best.shape))
        moved /= moved.sum(1, keepdims=True)
        assert loss(moved) > loss(best)


@pytest.mark.parametrize(
    ("n_tokens", "length", "unrevealed", "risk"), [(16, 32, 0.397, 1.231), (64, 256, 0.139, None)]
)
def test_known_values(n_tokens: int, length: int, unrevealed: float, risk: float | None) -> None:
    """At α = 0.5, to the three digits that are known from drawn sequences."""
    problem = NoisyRecall.theory_version(n_tokens, length, 0.5)
    assert unrevealed_probability(problem) == pytest.approx(unrevealed, abs=5e-4)
    if risk is not None:
        assert bayes_risk(problem).risk == pytest.approx(risk, abs=5e-4)


@pytest.mark.parametrize("n_tokens", [3, 10])
@pytest.mark.parametrize("level", [0.0, 0.5, 0.99])
def test_the_uniform_closed_form_and_the_dying_chain(n_tokens: int, level: float) -> None:
    """Two by two against a walk over all tokens, by a chain that differs from uniform in its last digits only."""
    moved = np.full((n_tokens, n_tokens), 1 / n_tokens)
    moved[1, 0] += 1e-15
    for length in (3, 4, 50):
        short = NoisyRecall.theory_version(n_tokens, length, level)
        chain = MarkovChain(np.full(n_tokens, 1 / n_tokens), moved)
        long = NoisyRecall.theory_version(n_tokens, length, level, chain)
        assert short.is_uniform
        assert not long.is_uniform
        # 50 steps, each with an error 1e-15 from the moved entry.
        assert unrevealed_probability(short) == pytest.approx(unrevealed_probability(long), rel=1e-12)


@pytest.mark.parametrize("name", ["theory", "theory, no noise", "repeated, zipf", "two", "two, few targets"])
def test_drawn_sequences_give_the_risk(name: str) -> None:
    """Within 5 standard errors (5 tests at 6e-7 each) of the enumerated risk; with a standard error that is right to a third."""
    problem = ALL[name]
    exact, _ = brute_risk(problem)
    found = monte_carlo_risk(problem, 40_000, np.random.default_rng(17))
    assert 0 < found.standard_error < 0.02
    assert abs(found.value - exact) <= 5 * found.standard_error
    assert abs(found.value - 1.1 * exact) > 5 * found.standard_error, "the test could not see ten percent"
    values = [monte_carlo_risk(problem, 1000, np.random.default_rng(seed)).value for seed in range(40)]
    # The spread of 40 means has a relative error 1/√80 = 0.11; three of them.
    assert np.std(values, ddof=1) == pytest.approx(found.standard_error * math.sqrt(40), rel=0.34)


def test_drawn_sequences_at_a_size_that_cannot_be_enumerated() -> None:
    problem = NoisyRecall.experiment_version(MarkovChain.zipf_dirichlet(12), 40, 0.4, 3)
    found = monte_carlo_risk(problem, 20_000, np.random.default_rng(5))
    exact = bayes_risk(problem)
    assert abs(found.value - exact.risk) <= 5 * found.standard_error
    drawn = draw_sequences(problem, 20_000, np.random.default_rng(6)).scored.sum(1)
    assert abs(drawn.mean() - exact.scored) <= 5 * drawn.std() / math.sqrt(len(drawn))


def test_entropy() -> None:
    assert entropy(0.0) == 0
    assert entropy(0.5) == pytest.approx(math.log(2), rel=1e-15)
    assert entropy(0.2) == pytest.approx(-0.2 * math.log(0.2) - 0.8 * math.log(0.8), rel=1e-15)


def test_an_answer_to_noise_alone_by_hand() -> None:
    """Three targets, the noise token one of them, α = 1/2, two noise tokens seen: weights 1/4, 1/4, 1."""
    problem = NoisyRecall.experiment_version(MarkovChain.uniform(3), 5, 0.5, 2)
    np.testing.assert_allclose(unrevealed_answer(problem, 2), [1 / 12, 1 / 12, 10 / 12], rtol=1e-14)
    np.testing.assert_allclose(unrevealed_answer(problem, 0), [1 / 6, 1 / 6, 4 / 6], rtol=1e-14)
    silent = NoisyRecall.theory_version(3, 5, 0.0)
    np.testing.assert_allclose(unrevealed_answer(silent, 1), [0, 0.5, 0.5, 0], rtol=1e-14)


def test_other_problems_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="this needs a problem with one trigger"):
        bayes_risk(TWO["two"])
    with pytest.raises(ValueError, match=r"scored is 'repeated'; this probability is for .* last token\."):
        unrevealed_probability(TINY["repeated"])
    with pytest.raises(ValueError, match=r"noise_token is 2, which is among the targets; it must not be\."):
        unrevealed_probability(TINY["last, noise a target"])
