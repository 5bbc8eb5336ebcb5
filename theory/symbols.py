"""One name, one meaning: every symbol of the project, its LaTeX and its name in code.

No symbol is made anywhere else: derivations take theirs from here, and the book prints its notation from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import sympy


@dataclass(frozen=True)
class Notation:
    """A symbol, how it is written, what it is called in code, and what it means (with its unit, if any)."""

    symbol: sympy.Symbol
    latex: str
    code_name: str
    meaning: str


def _symbol(latex: str, **assumptions: bool) -> sympy.Symbol:
    return sympy.Symbol(latex, **assumptions)


_ENTRIES = (
    Notation(
        _symbol("n", positive=True),
        "n",
        "n_tokens",
        "number of tokens a memory stores, the noise token apart",
    ),
    Notation(
        _symbol(r"\alpha", positive=True),
        r"\alpha",
        "noise_level",
        "probability that a label is the noise token",
    ),
    Notation(
        _symbol("t", nonnegative=True),
        "t",
        "flow_time",
        "time of gradient flow: learning rate × number of steps, divided by 1 − momentum",
    ),
    Notation(_symbol(r"\eta", positive=True), r"\eta", "learning_rate", "learning rate of gradient descent"),
    Notation(_symbol(r"\mu", nonnegative=True), r"\mu", "momentum", "heavy-ball momentum, in [0, 1)"),
    Notation(_symbol("B_s", positive=True), "B_s", "batch_size", "number of samples in a minibatch"),
    Notation(
        _symbol("d", positive=True),
        "d",
        "width",
        "dimension of embeddings and unembeddings (of the weight matrix)",
    ),
    Notation(_symbol("a", real=True), "a", "diagonal", "logit of the correct token, one for every key"),
    Notation(
        _symbol("b", real=True), "b", "off_diagonal", "logit of every wrong token other than the noise token"
    ),
    Notation(_symbol("g", real=True), "g", "noise", "logit of the noise token"),
    Notation(
        _symbol("L", real=True), "L", "logits", "matrix of logits, (n+1) × n: rows are labels, columns keys"
    ),
    Notation(_symbol("p_a", positive=True), "p_a", "correct", "probability of the correct token"),
    Notation(
        _symbol("p_b", positive=True), "p_b", "other / (n_tokens − 1)", "probability of one wrong token"
    ),
    Notation(
        _symbol("p_c", positive=True), "p_c", "noise (of probabilities)", "probability of the noise token"
    ),
    Notation(
        _symbol(r"s_\perp", nonnegative=True),
        r"s_\perp",
        "signal_singular_value",
        "singular value of the signal space, multiplicity n − 1",
    ),
    Notation(
        _symbol("s_1", nonnegative=True),
        "s_1",
        "noise_singular_value",
        "singular value of the one noise component",
    ),
    Notation(
        _symbol(r"\tau", positive=True),
        r"\tau",
        "clock",
        "clock of the exact solution, exp(−(n+1) b / 2); 1 at the start",
    ),
    Notation(
        _symbol("q", positive=True),
        "q",
        "riccati",
        "exp((a − g) / 2), which solves a Riccati equation in the clock",
    ),
    Notation(_symbol("A", real=True), "A", "drift", "(1 − 2α)(n − 1)/(n + 1), first Riccati coefficient"),
    Notation(_symbol("B", positive=True), "B", "growth", "2(1 − α)/(n + 1), second Riccati coefficient"),
    Notation(_symbol("C", positive=True), "C", "decay", "2α/(n + 1), third Riccati coefficient"),
    Notation(
        _symbol(r"\nu", positive=True), r"\nu", "order", "order of the Bessel functions, (1 + A)/2, in (0, 1)"
    ),
    Notation(_symbol("k", positive=True), "k", "wave_number", "√(B C), which scales the Bessel argument"),
    Notation(_symbol("y", positive=True), "y", "bessel_solution", "linear solution with q = y′ / (C y)"),
    Notation(
        _symbol(r"\ell", real=True), r"\ell", "loss", "softmax cross-entropy, averaged over keys and labels"
    ),
    Notation(
        _symbol("N_c", integer=True, positive=True),
        "N_c",
        "n_classes",
        "number of labels, n + 1 for the noisy memory",
    ),
    Notation(
        _symbol(r"\pi", positive=True),
        r"\pi",
        "label_probabilities",
        "probability of each label, given the key",
    ),
    Notation(_symbol("i", integer=True), "i", "label", "index of one label, 1 to N_c"),
    Notation(
        _symbol("j", integer=True),
        "j",
        "other_label",
        "index of a label that is summed over, or of a wrong token",
    ),
    Notation(
        _symbol("N", integer=True, positive=True),
        "N",
        "n_tokens (of recall)",
        "number of ordinary tokens in noisy recall, the trigger included and the noise token not",
    ),
    Notation(
        _symbol("T", integer=True, positive=True),
        "T",
        "context_length",
        "number of tokens that a model sees; the last of them is a trigger",
    ),
    Notation(_symbol("s", integer=True, nonnegative=True), "s", "position", "position in a context, 1 to T"),
    Notation(
        _symbol(r"\delta", positive=True),
        r"\delta",
        "1 / vocabulary_size",
        "probability of every token before training, 1/(N + 1)",
    ),
    Notation(
        _symbol("p_s", nonnegative=True),
        "p_s",
        "trigger_probability",
        "probability that position s < T holds the trigger",
    ),
    Notation(
        _symbol("Q_s", nonnegative=True),
        "Q_s",
        "expected_triggers",
        "expected number of triggers among the first s < T positions",
    ),
    Notation(
        _symbol(r"n_{\mathsf{q}}", nonnegative=True),
        r"n_{\mathsf{q}}",
        "UniformCounts.trigger",
        "expected number of triggers in a context",
    ),
    Notation(
        _symbol(r"n_{\mathsf{c}}", nonnegative=True),
        r"n_{\mathsf{c}}",
        "UniformCounts.noise",
        "expected number of noise tokens in a context",
    ),
    Notation(
        _symbol(r"n_{\bar y}", nonnegative=True),
        r"n_{\bar y}",
        "UniformCounts.target",
        "expected number of times that its target stands in a context",
    ),
    Notation(
        _symbol(r"n_{\mathsf{g}}", nonnegative=True),
        r"n_{\mathsf{g}}",
        "UniformCounts.generic",
        "expected number of times that a given ordinary token stands in a context, neither trigger nor target",
    ),
    Notation(
        _symbol(r"D_F", real=True),
        r"D_F",
        "feed_forward_noise",
        "margin of the noise token over a generic one after one step of the feed-forward matrix, per learning rate",
    ),
    Notation(
        _symbol(r"D_V", real=True),
        r"D_V",
        "value_noise",
        "the same margin after one step of the value matrix that reads current tokens alone",
    ),
    Notation(
        _symbol(r"R_V", real=True),
        r"R_V",
        "value_recall",
        "margin of the target over a generic token after one step of the value matrix, per learning rate",
    ),
    Notation(
        _symbol(r"\beta", nonnegative=True),
        r"\beta",
        "copy_strength",
        "strength of copying in the first step of the value matrix, per learning rate",
    ),
    Notation(
        _symbol("P_0", nonnegative=True),
        "P_0",
        "unrevealed_probability",
        "probability that a context does not show its target after a trigger",
    ),
    Notation(
        _symbol("h", nonnegative=True), "h", "entropy", "entropy of a label whose target is known, in nats"
    ),
    Notation(
        _symbol(r"\lambda", real=True),
        r"\lambda",
        "attention_scale",
        "scale of the attention scores of the Bayes-optimal construction",
    ),
    Notation(
        _symbol(r"\omega", real=True),
        r"\omega",
        "value_scale",
        "logit that the Bayes-optimal construction gives a copied token",
    ),
    Notation(
        _symbol(r"\theta", nonnegative=True),
        r"\theta",
        "angle",
        "angle between the vectors that a feed-forward reads at two positions, 0 to π",
    ),
    Notation(
        _symbol(r"\phi", real=True), r"\phi", "polar_angle", "angle of polar coordinates, integrated over"
    ),
    Notation(
        _symbol(r"\kappa_0", nonnegative=True),
        r"\kappa_0",
        "arc_cosine_kernel(0, ·)",
        "probability that two standard Gaussians at an angle are both positive",
    ),
    Notation(
        _symbol(r"\kappa_1", nonnegative=True),
        r"\kappa_1",
        "arc_cosine_kernel(1, ·)",
        "mean product of two rectified standard Gaussians at an angle",
    ),
    Notation(
        _symbol("m_h", integer=True, positive=True),
        "m_h",
        "hidden_multiplier",
        "number of hidden units of a feed-forward, divided by the width",
    ),
    Notation(
        _symbol(r"\varpi", nonnegative=True),
        r"\varpi",
        "attention_overlap",
        "inner product of the attention averages of two scored positions before training, divided by the width",
    ),
    Notation(
        _symbol("G_1", real=True),
        "G_1",
        "feed_forward_in (of growth)",
        "initial growth rate of the noise margin through the first matrix of a ReLU feed-forward",
    ),
    Notation(
        _symbol("G_2", real=True),
        "G_2",
        "feed_forward_out (of growth)",
        "initial growth rate of the noise margin through the second matrix of a ReLU feed-forward",
    ),
    Notation(
        _symbol("G_L", real=True),
        "G_L",
        "feed_forward_out (linear, of growth)",
        "initial growth rate of the noise margin through the matrix of a linear feed-forward",
    ),
    Notation(
        _symbol("G_O", real=True),
        "G_O",
        "attention_output (of growth)",
        "initial growth rate of the noise margin through the output matrix of attention; the value matrix has the same",
    ),
    Notation(
        _symbol(r"n_{\mathsf{L}}", integer=True, positive=True),
        r"n_{\mathsf{L}}",
        "n_layers",
        "number of layers of a transformer, layer 0 included",
    ),
    Notation(_symbol("l", integer=True, nonnegative=True), "l", "layer", "index of a layer, counted from 0"),
    Notation(
        _symbol("w_l", integer=True, positive=True),
        "w_l",
        "pairs known after a layer",
        "largest number of neighbouring pairs that the slot of a pair may know after layer l",
    ),
    Notation(
        _symbol(r"\underline{r}", integer=True, nonnegative=True),
        r"\underline{r}",
        "Bounds.lower",
        "least number of steps that some order of pairs leaves within reach",
    ),
    Notation(
        _symbol(r"\overline{r}", integer=True, nonnegative=True),
        r"\overline{r}",
        "Bounds.upper",
        "largest number of steps that some order of pairs brings within reach",
    ),
    Notation(
        _symbol("u_l", positive=True),
        "u_l",
        "probability of a full run",
        "probability that the middle slot of a run of 3^l pairs in random order knows it all after layer l",
    ),
    Notation(
        _symbol(r"\overline{P}", positive=True),
        r"\overline{P}",
        "upper_bound_probability",
        "probability that a random order of pairs attains the largest reach",
    ),
)

SYMBOLS: Mapping[str, Notation] = MappingProxyType({entry.latex: entry for entry in _ENTRIES})
"""Every notation by its LaTeX."""


def symbol(latex: str) -> sympy.Symbol:
    """The one SymPy symbol written as `latex`; KeyError when the project has none of that name."""
    return SYMBOLS[latex].symbol


def table() -> list[tuple[str, str, str]]:
    """Rows (LaTeX, name in code, meaning), in the order in which the book introduces them."""
    return [(entry.latex, entry.code_name, entry.meaning) for entry in _ENTRIES]
