"""Measurements: train and run models, and compare them with what `theory` predicts."""

from sims.contract import Claim, ClaimResult, Experiment, Finding, Scale, experiment, experiment_names
from sims.engine import run
from sims.outcome import Outcome
from sims.trainings import trained

__all__ = [
    "Claim",
    "ClaimResult",
    "Experiment",
    "Finding",
    "Outcome",
    "Scale",
    "experiment",
    "experiment_names",
    "run",
    "trained",
]
