"""What the init exponent does to the residual stream of a decoder before training, with pre- and with post-LN.

- D1: every matrix has Gaussian entries of std fan_in^−γ. The fan-in of an embedding is its number of rows: tokens, positions.
- D2: scores are so small that attention is uniform over the positions it sees, and those hold different tokens.
- D3: LayerNorm has gain 1, bias 0: it takes the mean away and divides by the root mean square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from theory.problems import checks
from theory.small_initialisation.gradients import check_exponent

Norm = Literal["pre", "post"]


@dataclass(frozen=True)
class FreshDecoder:
    """A decoder before training.

    - `vocabulary_size`, `context_length`: rows of the token and of the position embeddings. `width`: d.
    - `value_width`: columns of W_o, head width times number of heads. `hidden_width`: of the ReLU feed-forward, 0 for none.
    - `n_layers`. `init_exponent`: γ. `norm`: "pre", x + f(LN(x)), or "post", LN(x + f(x)).

    Raises ValueError for sizes out of range, an exponent that is not finite, or another norm.
    """

    vocabulary_size: int
    context_length: int
    width: int
    value_width: int
    init_exponent: float
    norm: Norm = "post"
    hidden_width: int = 0
    n_layers: int = 1

    def __post_init__(self) -> None:
        for name in ("vocabulary_size", "context_length", "width", "value_width", "n_layers"):
            checks.integer(name, getattr(self, name), 1)
        checks.integer("hidden_width", self.hidden_width, 0)
        check_exponent(self.init_exponent)
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm is {self.norm!r}; it must be one of {', '.join(get_args(Norm))}.")

    @property
    def first_stream(self) -> float:
        """Root mean square of token plus position embedding: √(V^−2γ + T^−2γ)."""
        exponent = -2 * self.init_exponent
        return math.sqrt(self.vocabulary_size**exponent + self.context_length**exponent)

    @property
    def attention_gain(self) -> float:
        """(d d_v)^(1/2 − γ): root mean square of W_o W_v x over that of x; exact as a root of means of squares."""
        return float((self.width * self.value_width) ** (0.5 - self.init_exponent))

    @property
    def feed_forward_gain(self) -> float:
        """(d d_h)^(1/2 − γ)/√2, the same for the ReLU feed-forward; 0 without one."""
        if not self.hidden_width:
            return 0.0
        return float((self.width * self.hidden_width) ** (0.5 - self.init_exponent) / math.sqrt(2))


def residual_ratio(decoder: FreshDecoder, n_attended: int) -> float:
    """Root mean square that layer 0's attention adds, over that of the stream it is added to (prop-residual).

    - `n_attended`: T', positions that it averages; independent rows average to 1/√T' of their size.

    Post-LN: (d d_v)^(1/2 − γ)/√T' in layer 0, whatever the embeddings' size, and so in later layers while f is small. It falls
    with γ: layers start as the identity. Pre-LN: attention reads a normalised stream and adds to a small one, so the ratio is
    larger by 1/first_stream, about V^γ: with V > d d_v it even rises with γ. Exact root of means over starts, except that rows of
    an LN have, for D3, mean square 1 exactly. Raises ValueError for n_attended < 1.
    """
    checks.integer("n_attended", n_attended, 1)
    ratio = decoder.attention_gain / math.sqrt(n_attended)
    return ratio / decoder.first_stream if decoder.norm == "pre" else ratio


def stream_sizes(decoder: FreshDecoder, n_attended: int) -> tuple[float, ...]:
    """Root mean square of the stream before every sublayer and after the last, before LNs of post-LN; n_layers · (1 or 2) + 1.

    Sublayers' outputs are independent of the stream (fresh matrices of mean 0), so that squares add, exactly. Pre-LN: the stream
    starts at `first_stream` and grows by the gains. Post-LN: each sum is normalised to 1; only the first starts smaller. Averages
    of later layers are taken over rows as independent as those of layer 0, which leaves out what layers before made common.
    """
    checks.integer("n_attended", n_attended, 1)
    gains = [decoder.attention_gain / math.sqrt(n_attended)]
    if decoder.hidden_width:
        gains.append(decoder.feed_forward_gain)
    sizes = [decoder.first_stream]
    for gain in gains * decoder.n_layers:
        if decoder.norm == "pre":
            sizes.append(math.hypot(sizes[-1], gain))
        else:
            before = sizes[0] if len(sizes) == 1 else 1.0
            sizes.append(before * math.hypot(1, gain))
    return tuple(sizes)


def gradient_scale(decoder: FreshDecoder, layer: int, n_attended: int) -> float:
    """By how much LNs scale the gradient on its way from the last LN's output to the output of `layer`'s attention.

    Each LN that the residual branch passes divides by the size of what it normalises (its Jacobian is a projection over that
    size, thm-normalisation), to relative order 1/d. Paths through later sublayers are left out: with post-LN of the relative
    order of their gains, with pre-LN of gain/first_stream.
    - Pre-LN: the last LN alone: 1/size of the final stream ≈ 1/first_stream ≈ V^γ for every layer. A small start raises the
      effective learning rate of all layers.
    - Post-LN: layer 0 passes an LN of a stream as small; every later LN sees size ≈ 1. Only layer 0 is sped up.
    Raises ValueError for a layer that is not there.
    """
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < decoder.n_layers:
        raise ValueError(f"layer is {layer!r}; it must be an integer from 0 to {decoder.n_layers - 1}.")
    sizes = stream_sizes(decoder, n_attended)
    if decoder.norm == "pre":
        return 1 / sizes[-1]
    sublayers = 2 if decoder.hidden_width else 1
    return 1 / math.prod(sizes[1 + layer * sublayers :])
