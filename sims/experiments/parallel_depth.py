"""How many steps do trained decoders of four layers answer, where the two bounds part, and in which orders of pairs?

The training by stages of `parallel_curriculum` with one layer more and chains of mixed lengths, with the mask and without. The
models are also asked about rings, chains whose last pair leads back to the first token, where no end tells anything.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from sims.contract import Claim, Finding, Scale, Verdict
from sims.experiments import parallel_curriculum
from sims.experiments._parallel_curriculum_figures import FIGURES as STAGES
from sims.experiments._parallel_lengths_figures import rings
from sims.experiments._readings import long_enough
from sims.experiments.parallel_curriculum import (
    LAPTOP,
    MASKS,
    PAPER,
    SMOKE,
    WANG,
    answers,
    ask,
    at_the_end,
    by_number,
    by_steps,
    datasets,
    right_on_rings,
    where_asked,
)
from sims.experiments.parallel_curriculum import Config as Config
from sims.experiments.parallel_training import ORDERS
from sims.models.decoder import Decoder
from sims.outcome import Outcome
from sims.recipes.pair_curriculum import train_by_stages
from sims.statistics import mean_interval
from theory import parallel_reasoning as theory

FIGURES = {**STAGES, "rings": rings}
DEEP = replace(
    LAPTOP,
    n_pairs=16,
    n_steps=13,
    n_tokens=17,
    n_layers=3,
    promotion=0.8,
    check_steps=250,
    mixed_lengths=True,
    final_step=16_000,
    n_evaluation=8000,
)
"""One layer more, and chains on which thirteen steps have two starts."""
SCALES = {
    "smoke": Scale(replace(SMOKE, n_layers=3, mixed_lengths=True), MASKS, n_seeds=8),
    "laptop": Scale(DEEP, MASKS, n_seeds=5),
    "paper": Scale(replace(PAPER, n_layers=3, promotion=0.8, mixed_lengths=True), MASKS, n_seeds=5),
}
COMPARED = parallel_curriculum.COMPARED


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """Train the stacked runs (equal configs); see `sims.experiments.parallel_curriculum`.

    Beside what is read there, `on_rings` over `steps` and `step`: accuracy on the same sentences with their chains closed.
    """
    config, seeds = runs[0][0], [seed for _, seed in runs]
    asked = ask(config, seeds, device)

    def read(model: Decoder) -> dict[str, np.ndarray]:
        return {**by_steps(model, config, asked), "on_rings": right_on_rings(model, config, *asked[:3])}

    readings = train_by_stages(config.stages, seeds, config.probe_steps, read, device)
    return [
        one.assign(on_rings=(("steps", "step"), readings["on_rings"][place]))
        for place, one in enumerate(datasets(config, asked, readings))
    ]


def predict(config: Config) -> xr.Dataset:
    """See `sims.experiments.parallel_curriculum`."""
    return parallel_curriculum.predict(config)


@long_enough
@where_asked(lambda depth: theory.bounds(depth).lower + 1)
def _orders_between_the_bounds(outcome: Outcome) -> Finding:
    """Accuracy within minus beyond reach, mean over the numbers of steps above the lower bound that a tenth of orders allows."""
    last, config = at_the_end(outcome, causal=True), outcome.configs[0]
    allowed = outcome.predicted["share"].sel(causal=True)
    numbers = [
        int(one)
        for one in allowed["steps"].values
        if one > theory.bounds(config.depth).lower and float(allowed.sel(steps=one)) >= 0.1
    ]
    inside, outside = (last["by_reach"].sel(steps=numbers, order=one).mean("steps").values for one in ORDERS)
    value, interval = mean_interval(inside - outside)
    verdict: Verdict = "holds" if interval[0] >= 0.3 else "fails"
    note = (
        f"within minus beyond reach, {numbers[0]} to {numbers[-1]} steps; {inside.mean():.3f} and {outside.mean():.3f}; "
        f"accuracy by number of steps {by_number(last['accuracy'])}"
    )
    return Finding(value, interval, None, verdict, note)


CLAIMS = (
    Claim(
        "W6.12",
        WANG,
        "Trained by stages, four layers without the mask reason in parallel: they answer seven steps.",
        "Accuracy at least 0.9 on seven steps.",
        answers(False, lambda depth: theory.bounds(depth).lower),
    ),
    Claim(
        "W6.13",
        "ours",
        "They answer nine steps, more than two to the number of trained layers.",
        "Accuracy at least 0.9 on nine steps.",
        answers(False, lambda depth: 2 ** (depth - 1) + 1),
    ),
    Claim(
        "W6.17",
        "ours",
        "Nine steps are followed, and not found from the chain's end: they are answered on rings, which have none.",
        "Without the mask, accuracy at least 0.8 on nine steps of rings, never seen in training.",
        answers(False, lambda depth: 2 ** (depth - 1) + 1, 0.8, "on_rings"),
    ),
    Claim(
        "W6.18",
        "ours",
        "They answer thirteen steps, the most that the theorem allows without the mask.",
        "Accuracy at least 0.9 on thirteen steps.",
        answers(False, lambda depth: theory.bounds(depth).upper),
    ),
    Claim(
        "W6.19",
        WANG,
        "With the mask they reason in parallel too: they answer four steps, one more than there are trained layers.",
        "Accuracy at least 0.9 on four steps, mean over all orders of pairs.",
        answers(True, lambda depth: depth),
    ),
    Claim(
        "W6.20",
        "ours",
        "With the mask they answer all that the theorem allows in every order, seven steps.",
        "Accuracy at least 0.9 on seven steps, mean over all orders of pairs.",
        answers(True, lambda depth: theory.bounds(depth).lower),
    ),
    Claim(
        "W6.21",
        "ours",
        "Between the two bounds the order of pairs decides: more is answered where the theorem allows it.",
        "With the mask, accuracy within reach higher by 0.3 than beyond, mean over the numbers of steps above seven that a "
        "tenth of all orders allows.",
        _orders_between_the_bounds,
    ),
)
