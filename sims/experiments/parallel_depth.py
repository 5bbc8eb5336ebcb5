"""How many steps do four trained layers answer, where the two bounds part?

The training by stages of `parallel_curriculum` with one layer more and a longer chain. Half of the rules, reading forwards, allow
seven steps without the mask; all of them thirteen.
"""

from __future__ import annotations

from dataclasses import replace

import xarray as xr

from sims.contract import Claim, Scale
from sims.experiments import parallel_curriculum
from sims.experiments._parallel_curriculum_figures import FIGURES as FIGURES
from sims.experiments.parallel_curriculum import LAPTOP, MASKS, PAPER, SMOKE
from sims.experiments.parallel_curriculum import Config as Config
from theory import parallel_reasoning as theory

DEEP = replace(
    LAPTOP,
    n_pairs=14,
    n_steps=9,
    n_tokens=15,
    n_layers=3,
    width=96,
    attention_width=96,
    feed_forward_width=192,
)
"""One layer more, and a chain on which nine steps have four starts."""
SCALES = {
    "smoke": Scale(replace(SMOKE, n_layers=3), {"causal": (False,)}, n_seeds=8),
    "laptop": Scale(DEEP, {"causal": (False,)}, n_seeds=5),
    "paper": Scale(replace(PAPER, n_layers=3), MASKS, n_seeds=5),
}
COMPARED = parallel_curriculum.COMPARED


def simulate(runs: list[tuple[Config, int]], device: str) -> list[xr.Dataset]:
    """See `sims.experiments.parallel_curriculum`."""
    return parallel_curriculum.simulate(runs, device)


def predict(config: Config) -> xr.Dataset:
    """See `sims.experiments.parallel_curriculum`."""
    return parallel_curriculum.predict(config)


CLAIMS = (
    Claim(
        "W6.12",
        parallel_curriculum.WANG,
        "Trained by stages, four layers without the mask reason in parallel: they answer seven steps.",
        "Accuracy at least 0.9 on seven steps.",
        parallel_curriculum.answers(False, lambda depth: theory.bounds(depth).lower),
    ),
    Claim(
        "W6.13",
        "ours",
        "They answer nine steps, more than two to the number of trained layers.",
        "Accuracy at least 0.9 on nine steps.",
        parallel_curriculum.answers(False, lambda depth: 2 ** (depth - 1) + 1),
    ),
)
