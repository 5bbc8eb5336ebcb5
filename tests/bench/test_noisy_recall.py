"""What the sampler of noisy recall gains over a plain loop, and the reduced system over training.

Only ratios and tokens per second are printed, and no time is
asserted; what is asserted is that both roads have one distribution, by the mean number of occurrences of the trigger."""

import bisect
import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sims.experiments import recall_training
from sims.statistics import z_threshold
from sims.tasks.noisy_recall import Sampler
from theory import noisy_recall as theory
from theory.problems import MarkovChain, NoisyRecall


def seconds(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Shortest of some runs, and what the last one returned."""
    shortest, result = np.inf, None
    for _ in range(repeats):
        begin = time.perf_counter()
        result = work()
        shortest = min(shortest, time.perf_counter() - begin)
    return shortest, result


def plain_loop(problem: NoisyRecall, batch_size: int, seed: int) -> list[list[int]]:
    """Sequence by sequence and token by token, by bisection of cumulative rows."""
    source = random.Random(seed)
    first = list(itertools.accumulate(problem.chain.initial.tolist()))
    rows = [list(itertools.accumulate(row)) for row in problem.chain.transition.tolist()]
    last = problem.vocabulary_size - 1
    sequences = []
    for _ in range(batch_size):
        answers = {trigger: source.choice(problem.targets) for trigger in problem.triggers}
        sequence = [min(bisect.bisect(first, source.random()), last)]
        for _ in range(problem.context_length):
            before = sequence[-1]
            if before in answers:
                noisy = source.random() < problem.noise_level
                sequence.append(problem.noise_token if noisy else answers[before])
            else:
                sequence.append(min(bisect.bisect(rows[before], source.random()), last))
        sequences.append(sequence)
    return sequences


@pytest.mark.parametrize("n_triggers", [1, 5])
def test_sampler_against_a_plain_loop(n_triggers: int) -> None:
    chain = MarkovChain.tiny_shakespeare()
    problem = NoisyRecall.experiment_version(chain, 256, 0.5, 2, n_triggers)
    sampler, generator = Sampler(problem), torch.Generator().manual_seed(0)
    batch_size = 512
    fast, batch = seconds(lambda: sampler.draw(batch_size, generator), 20)
    slow, sequences = seconds(lambda: plain_loop(problem, batch_size, 0), 2)
    trigger = problem.triggers[0]
    counts = [(np.asarray(one) == trigger).sum(1) for one in (batch.sequences.numpy(), sequences)]
    error = np.sqrt(sum(one.var() / batch_size for one in counts))
    z = abs(counts[0].mean() - counts[1].mean()) / error
    assert z <= z_threshold(2), z
    speed = batch_size * (problem.context_length + 1) / fast / 1e6
    print(
        f"\nsampler over a plain loop, 512 × 256 tokens, {n_triggers} triggers: {slow / fast:.3g} times as fast"
    )
    print(f"{speed:.3g} million tokens a second")


def test_order_parameters_against_training() -> None:
    """The reduced system at its full number of contexts, against the training of one seed that it predicts."""
    config = recall_training.Config(final_step=300, n_probes=10)
    predicting, predicted = seconds(lambda: recall_training.predict(config), 2)
    training, (measured,) = seconds(lambda: recall_training.simulate([(config, 0)], "cpu"), 1)
    gap = float(abs(measured["target"] - predicted["target"]).max())
    assert gap <= 0.2, gap  # one seed: a minibatch of 256 moves the rise of the target by a few steps
    print(
        f"\ntraining over order parameters, 300 steps of 256 contexts: {training / predicting:.3g} times as long"
    )
    rates = theory.LearningRates(1.0, 1.0, 1.0)
    table = theory.context_table(config.problem, 2048, np.random.default_rng(0))
    for step in (1500, 15000):
        flow, _ = seconds(lambda step=step: theory.gradient_flow(table, rates, [step]), 1)
        print(
            f"flow to step {step}: {flow / (training / 300 * step):.3g} of the time of that many steps of training"
        )
