"""The example of the page "Your own experiment" runs, agrees with theory, and can disagree."""

from pathlib import Path

import pytest

import sims

EXAMPLE = str(Path(__file__).parents[2] / "book" / "your_own_experiment.py")


def test_example_agrees_and_its_claim_holds() -> None:
    outcome = sims.run(EXAMPLE, scale="smoke")
    assert outcome.agreement is not None
    assert outcome.agreement.holds(), str(outcome.agreement)
    assert [claim.verdict for claim in outcome.claims] == ["holds"]
    assert outcome.figure("ratio").axes[0].get_xlabel()


def test_example_notices_too_few_samples() -> None:
    """A hundred samples a gradient leave the line by far more than the stated bias."""
    outcome = sims.run(EXAMPLE, scale="smoke", n_samples=100)
    gap = abs(outcome.measured["ratio"].mean("seed") - outcome.predicted["ratio"]).max()
    assert float(gap) > 0.1


def test_example_refuses_a_batch_without_samples() -> None:
    with pytest.raises(ValueError, match="n_samples is 0; it must be at least 1"):
        sims.run(EXAMPLE, scale="smoke", n_samples=0)
