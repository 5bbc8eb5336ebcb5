"""Small initialisation: how a matching layer leaves a start near zero, and what LayerNorm makes of the same start.

- A1: n tokens have orthonormal frozen embeddings in width d ≥ n; keys are read from a frozen orthogonal buffer W_vo(0). So only
  W_q and the rotated key matrix W_k W_vo(0) matter, in token space two d_k × n matrices Q and K. The kernel is A = QᵀK.
- A2 (start): their entries are independent N(0, σ²), σ = d^−γ, γ the init exponent, the fan-in d.
- A3 (data): a context of m slots has distinct keys. The query token s is one of them; it is asked for with probability p_s (1/n
  unless stated), the other keys are uniform without replacement. Score of slot j: χ A[s, k_j]. Loss: −ln(softmax weight of the
  slot whose key is s).
- A4 (linear softmax): the gradient in the scores is that at zero scores, to relative order of the scores (`linear_error`).

What follows. The gradient in the kernel is a multiple c of the identity, but for the means of rows and columns: diagonal entries
move first, all at one rate (prop-match-gradient). W_q and W_k then grow as exp(c t), from their own start: the kernel becomes a
random Wishart matrix of rank d_k, not one of rank one, with a cosine to the identity of √(d_k/(d_k + n)) at most. A smaller start
makes the wait longer, by γ ln d/c, and by then has forgotten the part of the start that is not aligned (prop-escape). Rank one
appears when the data breaks the symmetry: frequent tokens grow at larger rates, the wait amplifies the difference, and a smaller
start gives a sharper order of tokens. W_vo moves before W_qk (prop-order). Sign-like updates, as Adam's, have no such wait.

Contexts of trained decoders differ: embeddings and buffers move too, and LNs stand between; this is the smallest layer that has
to match. Source: ours; the initialisation rule and the question are those of Wang et al., arXiv 2405.15302 (claim W2).
"""

from theory.small_initialisation.early_growth import (
    Growth,
    Moments,
    descent_growth,
    escape_alignment,
    escape_time,
    flow_growth,
    grown_factors,
    linear_error,
    moments,
    off_diagonal,
    wishart_ceiling,
)
from theory.small_initialisation.gradients import (
    MatchingLayer,
    Modes,
    copying_rate,
    margins,
    matching_rate,
    slopes,
    zipf_probabilities,
)
from theory.small_initialisation.proof import derivation, residuals
from theory.small_initialisation.reduced import (
    balanced_time,
    copying_strength,
    draw_starts,
    population_descent,
    population_flow,
    reduced_growth,
    unfactored_margin,
    waiting_growth,
)
from theory.small_initialisation.residual_stream import (
    FreshDecoder,
    Norm,
    gradient_scale,
    residual_ratio,
    stream_sizes,
)
from theory.small_initialisation.sign_descent import (
    adam_first_step,
    flipped_share,
    forgotten_exponent,
    sign_ceiling,
    sign_flow,
    sign_margin,
)

__all__ = [
    "FreshDecoder",
    "Growth",
    "MatchingLayer",
    "Modes",
    "Moments",
    "Norm",
    "adam_first_step",
    "balanced_time",
    "copying_rate",
    "copying_strength",
    "derivation",
    "descent_growth",
    "draw_starts",
    "escape_alignment",
    "escape_time",
    "flipped_share",
    "flow_growth",
    "forgotten_exponent",
    "gradient_scale",
    "grown_factors",
    "linear_error",
    "margins",
    "matching_rate",
    "moments",
    "off_diagonal",
    "population_descent",
    "population_flow",
    "reduced_growth",
    "residual_ratio",
    "residuals",
    "sign_ceiling",
    "sign_flow",
    "sign_margin",
    "slopes",
    "stream_sizes",
    "unfactored_margin",
    "waiting_growth",
    "wishart_ceiling",
    "zipf_probabilities",
]
