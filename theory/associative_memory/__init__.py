"""The noisy linear associative memory, solved exactly.

`gradient_flow` is the headline: the logits at every size and time. The rest is read off it: singular values and
their crossing (`spectrum`), predictions before and after surgery (`surgery`), the phase diagram
(`phase_diagram`), late-time laws (`laws`), finite steps and minibatches (`descent`), finite width
(`embeddings`). `proof` derives it in SymPy, `high_precision` evaluates it to any number of digits.
"""

from theory.associative_memory.descent import (
    corrected_flow,
    first_order_correction,
    gradient_descent,
    largest_stable_learning_rate,
    relaxation_time,
    stationary_variance,
)
from theory.associative_memory.embeddings import LogitSpread, logit_spread
from theory.associative_memory.flow import GradientFlow, excess_noise, gradient_flow
from theory.associative_memory.high_precision import ExactState, exact_state
from theory.associative_memory.laws import late_flow, late_noise_without_component, late_time
from theory.associative_memory.phase_diagram import ANSWER, DEFAULT_THRESHOLD, Phase, phases
from theory.associative_memory.proof import derivation, residuals
from theory.associative_memory.riccati import Riccati
from theory.associative_memory.spectrum import (
    CertifiedRoot,
    asymptotic_crossing_time,
    certified_crossing_time,
    component_order,
    crossing_time,
    has_crossing,
    initial_ratio,
    late_ratio,
    noise_on_top_at_start,
    noise_singular_value,
    noise_singular_vectors,
    signal_singular_value,
)
from theory.associative_memory.surgery import (
    Probabilities,
    probabilities,
    probabilities_without_noise,
    truncated_probabilities,
)

__all__ = [
    "ANSWER",
    "DEFAULT_THRESHOLD",
    "CertifiedRoot",
    "ExactState",
    "GradientFlow",
    "LogitSpread",
    "Phase",
    "Probabilities",
    "Riccati",
    "asymptotic_crossing_time",
    "certified_crossing_time",
    "component_order",
    "corrected_flow",
    "crossing_time",
    "derivation",
    "exact_state",
    "excess_noise",
    "first_order_correction",
    "gradient_descent",
    "gradient_flow",
    "has_crossing",
    "initial_ratio",
    "largest_stable_learning_rate",
    "late_flow",
    "late_noise_without_component",
    "late_ratio",
    "late_time",
    "logit_spread",
    "noise_on_top_at_start",
    "noise_singular_value",
    "noise_singular_vectors",
    "phases",
    "probabilities",
    "probabilities_without_noise",
    "relaxation_time",
    "residuals",
    "signal_singular_value",
    "stationary_variance",
    "truncated_probabilities",
]
