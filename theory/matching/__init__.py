"""Matching: how a transformer follows a chain of pairs by comparing one layer's buffer with another's.

A decoder of attention alone, one head, layers 0 … L − 1. Layer l scores query i for key j by x_iᵀ W_qk(l) x_j / √d_k with
W_qk = W_qᵀ W_k, and adds Σ_j A_ij W_vo(l) x_j to x_i, W_vo = W_o W_v; matrices act on columns. A sentence lists pairs a → b in
any order, then a start token. The *buffer* j is the image of W_vo(j), the raw buffer holds embeddings as they are.

- A1: layer 0 attends by positions: a pair's right token, its *value slot*, reads its left token's *key slot*.
- A2: in layer l ≥ 1 a position reads one source, the one with the largest score (large scores, hard attention).
- A3: embeddings are near-orthonormal, W_vo near-orthogonal and independent: products that do not cancel are random.
- A4: no normalisation, no feed-forward.

Statements. A stream is a sum of words, each of the 2^l decreasing words once (lem-words). Same-token matching needs
Ker(1) = W_qk(1) W_vo(0) and Ker(l) = W_vo(l − 1)ᵀ W_qk(l) W_vo(0) to be near a multiple of the identity; a matching score
means nothing without its scale; the alignment of a kernel of rank d_k is at most √(d_k/d), while kernel score and diagonal ratio
have no such ceiling, only a typical value (prop-rank). Of the noise forms, "corrected" makes every layer match, "remembered"
the first one and raw queries with the last buffer, "identity" all buffers alike, which fails (prop-noise, prop-collision). The
construction that solves L − 1 steps needs a width that grows at most, and nearly, four times a layer (thm-width).

`buffers`: information flow and kernels. `scores`: scores and their expectations. `orthogonal_noise`: gains. `construction`:
weights and ideal flow. `width_law`: its accuracy. `proof`: the equations. Source: ours; mechanism and noise after Wang et al.,
arXiv 2405.15302 (claims W1, W3, W4), from which details may differ.
"""

from theory.matching.buffers import (
    Content,
    Term,
    Word,
    content_vector,
    contents,
    kernel,
    kernels,
    needed_kernel,
    score_parts,
    word_matrix,
)
from theory.matching.construction import (
    Construction,
    ConstructionWeights,
    construction_weights,
    haar_matrix,
    matching_reads,
)
from theory.matching.orthogonal_noise import (
    Gain,
    added_key_query,
    expected_trace,
    fresh_alignment,
    gained_word,
    gains,
    matched_terms,
    reduce_word,
    word_expression,
)
from theory.matching.proof import derivation, residuals
from theory.matching.scores import (
    Scores,
    alignment,
    diagonal_ratio,
    expected_matching_score,
    gaussian_scores,
    kernel_score,
    matching_score,
    projector_absolute_entry,
    projector_scores,
    random_deviations,
    softmax_win,
)
from theory.matching.width_law import (
    expected_accuracy,
    mean_units,
    required_width,
    sample_accuracy,
    win_probabilities,
)

__all__ = [
    "Construction",
    "ConstructionWeights",
    "Content",
    "Gain",
    "Scores",
    "Term",
    "Word",
    "added_key_query",
    "alignment",
    "construction_weights",
    "content_vector",
    "contents",
    "derivation",
    "diagonal_ratio",
    "expected_accuracy",
    "expected_matching_score",
    "expected_trace",
    "fresh_alignment",
    "gained_word",
    "gains",
    "gaussian_scores",
    "haar_matrix",
    "kernel",
    "kernel_score",
    "kernels",
    "matched_terms",
    "matching_reads",
    "matching_score",
    "mean_units",
    "needed_kernel",
    "projector_absolute_entry",
    "projector_scores",
    "random_deviations",
    "reduce_word",
    "required_width",
    "residuals",
    "sample_accuracy",
    "score_parts",
    "softmax_win",
    "win_probabilities",
    "word_expression",
    "word_matrix",
]
