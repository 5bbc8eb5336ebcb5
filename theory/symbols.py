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
    Notation(
        _symbol("m", integer=True, positive=True),
        "m",
        "n_slots",
        "number of slots of a context, each with a key of its own",
    ),
    Notation(
        _symbol("d_k", integer=True, positive=True),
        "d_k",
        "head_width",
        "dimension of the queries and keys of one attention head",
    ),
    Notation(
        _symbol(r"\gamma", real=True),
        r"\gamma",
        "init_exponent",
        "every weight starts with standard deviation fan-in^(−γ)",
    ),
    Notation(
        _symbol(r"\sigma", positive=True),
        r"\sigma",
        "init_std",
        "standard deviation of a weight before training, fan-in^(−γ)",
    ),
    Notation(
        _symbol(r"\chi", positive=True),
        r"\chi",
        "score_scale",
        "factor that turns query · key into an attention score",
    ),
    Notation(
        _symbol("c", positive=True),
        "c",
        "matching_rate",
        "rate at which sums of query and key vectors start to grow in a matching layer",
    ),
    Notation(
        _symbol("c_V", nonnegative=True),
        "c_V",
        "copying_rate",
        "rate at which sums of value and output vectors start to grow in a matching layer",
    ),
    Notation(
        _symbol("z", real=True),
        "z",
        "margin",
        "score of the right key minus the mean score of the others",
    ),
    Notation(
        _symbol(r"\Sigma", nonnegative=True),
        r"\Sigma",
        "Growth.signal",
        "factor by which the mean kernel of a matching layer has grown, sinh(2ct) under the flow",
    ),
    Notation(
        _symbol(r"\mathcal{E}", positive=True),
        r"\mathcal{E}",
        "Moments.square",
        "mean squared Frobenius norm of the kernel that the softmax sees",
    ),
    Notation(
        _symbol(r"\varrho", real=True),
        r"\varrho",
        "alignment",
        "cosine between the centred kernel of a matching layer and the identity",
    ),
    Notation(
        _symbol(r"\bar\varrho", positive=True),
        r"\bar\varrho",
        "wishart_ceiling",
        "cosine between a Wishart matrix and the identity",
    ),
    Notation(
        _symbol("t_z", nonnegative=True),
        "t_z",
        "escape_time",
        "flow time at which the mean margin of a matching layer reaches z",
    ),
    Notation(
        _symbol("z_0", positive=True),
        "z_0",
        "start",
        "margin from which a balanced matching layer starts",
    ),
    Notation(
        _symbol("d_v", integer=True, positive=True),
        "d_v",
        "value_width",
        "inner dimension of the product of output and value matrix",
    ),
    Notation(
        _symbol("V", integer=True, positive=True),
        "V",
        "vocabulary_size",
        "number of rows of a token embedding",
    ),
    Notation(
        _symbol("x_0", positive=True),
        "x_0",
        "first_stream",
        "root mean square of the residual stream before the first layer",
    ),
    Notation(
        _symbol("r_A", positive=True),
        "r_A",
        "residual_ratio",
        "root mean square that attention adds to the stream, over that of the stream, before training",
    ),
    *(
        Notation(
            _symbol(rf"W_{{\mathsf{{vo}},{layer}}}"),
            rf"W_{{\mathsf{{vo}},{layer}}}",
            f"value_outputs[{layer}]",
            f"product of the output and the value matrix of layer {layer}, d × d; its image is buffer {layer}",
        )
        for layer in range(3)
    ),
    *(
        Notation(
            _symbol(rf"W_{{\mathsf{{qk}},{layer}}}"),
            rf"W_{{\mathsf{{qk}},{layer}}}",
            f"key_queries[{layer}]",
            f"product of the transposed query and the key matrix of layer {layer}, d × d",
        )
        for layer in (1, 2)
    ),
    *(
        Notation(
            _symbol(f"e_{token}"),
            f"e_{token}",
            f"embeddings[{token!r}]",
            f"embedding of token {token} of the chain a → b → c, shape (d, 1)",
        )
        for token in "abc"
    ),
    *(
        Notation(
            _symbol(rf"x_{{{place}}}"),
            rf"x_{{{place}}}",
            f"content of {place}",
            f"stream of the value slot of the pair {place[0]} → {place[1]} after layer 0, shape (d, 1)",
        )
        for place in ("ab", "bc")
    ),
    *(
        Notation(
            _symbol(rf"x_{{\ast,{layer}}}"),
            rf"x_{{\ast,{layer}}}",
            f"content of the last position ({layer})",
            f"stream of the last position after layer {layer}, shape (d, 1)",
        )
        for layer in range(3)
    ),
    *(
        Notation(
            _symbol(rf"\mathrm{{Ker}}_{layer}"),
            rf"\mathrm{{Ker}}_{layer}",
            f"kernel (of layer {layer})",
            f"kernel that matching needs in layer {layer}, d × d",
        )
        for layer in (1, 2)
    ),
    *(
        Notation(
            _symbol(f"S_{layer}"),
            f"S_{layer}",
            f"score (of layer {layer})",
            f"score of the last position for the right slot in layer {layer}, before division by √d_k",
        )
        for layer in (1, 2)
    ),
    Notation(
        _symbol("o_c"), "o_c", "logit (of c)", "logit of token c at the last position of the construction"
    ),
    *(
        Notation(
            _symbol(f"Z_{layer}"),
            f"Z_{layer}",
            f"noises[{layer}]",
            f"fixed random matrix added to the value-output matrix of layer {layer}, d × d",
        )
        for layer in range(3)
    ),
    *(
        Notation(
            _symbol(rf"\Delta\mathrm{{Ker}}_{layer}"),
            rf"\Delta\mathrm{{Ker}}_{layer}",
            f"gained_word(…, {layer}, …)",
            f"what noise of unit strengths adds to the kernel that matching needs in layer {layer}, d × d",
        )
        for layer in (1, 2)
    ),
    Notation(
        _symbol(r"\Delta\mathrm{Ker}_{\mathsf{raw}}"),
        r"\Delta\mathrm{Ker}_{\mathsf{raw}}",
        "gained_word(…, 2, (), (1,))",
        "what noise of unit strengths adds to the kernel of raw queries and keys in buffer 1 of layer 2, d × d",
    ),
    Notation(
        _symbol(r"\mathrm{KS}", real=True),
        r"\mathrm{KS}",
        "kernel_score",
        "width times trace over the sum of absolute entries of a kernel",
    ),
    Notation(
        _symbol(r"\rho_K", real=True),
        r"\rho_K",
        "diagonal_ratio",
        "mean diagonal over rms off-diagonal entry of a kernel",
    ),
    Notation(
        _symbol(r"c_K", real=True),
        r"c_K",
        "alignment (of a kernel)",
        "cosine between a kernel and the identity, −1 to 1",
    ),
    Notation(
        _symbol(r"\langle P_{ii}^2\rangle", positive=True),
        r"\langle P_{ii}^2\rangle",
        "mean square of a diagonal entry",
        "mean square of a diagonal entry of a random orthogonal projector of rank d_k",
    ),
    Notation(
        _symbol(r"\langle P_{ij}^2\rangle", positive=True),
        r"\langle P_{ij}^2\rangle",
        "mean square of an off-diagonal entry",
        "mean square of an off-diagonal entry of a random orthogonal projector of rank d_k",
    ),
    Notation(
        _symbol(r"\langle |P_{ij}|\rangle", positive=True),
        r"\langle |P_{ij}|\rangle",
        "projector_absolute_entry",
        "mean absolute value of an off-diagonal entry of a random orthogonal projector of rank d_k",
    ),
    Notation(
        _symbol("F_K", positive=True),
        "F_K",
        "mean square norm of a kernel",
        "mean squared Frobenius norm of the ideal kernel with Gaussian value-output matrices",
    ),
    Notation(
        _symbol(r"\underline{\mathrm{MS}}", positive=True),
        r"\underline{\mathrm{MS}}",
        "bound of matching_score",
        "lower bound of the mean matching score at a stated scale, for the identity with noise and Gaussian scores",
    ),
    Notation(
        _symbol("n_X", integer=True, positive=True),
        "n_X",
        "n_tokens (matched)",
        "number of embeddings that a matching score compares",
    ),
    Notation(
        _symbol(r"\sigma_K", nonnegative=True),
        r"\sigma_K",
        "noise (of a kernel)",
        "rms entry of noise on a kernel",
    ),
    Notation(
        _symbol("N_l", positive=True),
        "N_l",
        "mean_units",
        "largest number of unit vectors in a stream before layer l of the construction",
    ),
    Notation(
        _symbol("v_l", positive=True),
        "v_l",
        "score variance",
        "largest variance of a wrong slot's score in layer l of the construction, for unit strength",
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
