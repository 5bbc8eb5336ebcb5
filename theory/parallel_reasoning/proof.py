"""The proofs: arguments in words, and every equation of theirs in SymPy.

Write K_p(l) for what slot p knows after layer l, w_l for the largest number of pairs that a slot may know then, and
r_l for the reach: the last slot knows c_0 … c_{r_l} but not the next token. Assumptions A1 to A4 stand in
`theory.parallel_reasoning`.

Lemma (lem-runs). K_p(l) is a run of consecutive tokens of the path. *Proof.* True for l = 0; the union of runs that share a
token with one of them is a run. ∎ So r_{l+1} is the largest last token of a slot whose run, after layer l, holds c_{r_l} or
begins before it.

Lemma (lem-merging). If after layer l two slots of pairs know the runs X and Y, which share a token, then after layer l + 1
one of them knows X ∪ Y. *Proof.* One of them stands later; it reads the other (at once both, without the mask). ∎

Theorem (thm-reach), in four parts.

Lower bound. After layer l every run of 2^l pairs is known to a slot of one of its pairs: for l = 0 to its own slot; for
l + 1 its two halves share a token, so the later of their two slots knows both (lem-merging). The run of 2^l pairs that
begins at c_{r_l} holds c_{r_l}, so that the last slot reads this slot in layer l + 1: r_{l+1} ≥ r_l + 2^l, r_0 = 0. A slot
belongs to one of two halves only, so one source a layer is enough (`halving_plan`).

Upper bounds. A source to the right shares a token with what a slot knows, so it adds w_l pairs at most; likewise to the
left: w_{l+1} ≤ 3 w_l, w_0 = 1; with one source a layer w_{l+1} ≤ 2 w_l. A source that takes the last slot farther holds
c_{r_l}, so r_{l+1} ≤ r_l + w_l. Sums of geometric series.

No mask. By induction the slot of pair i knows the 3^l pairs around i: it reads those of i − 3^l and i + 3^l, whose runs
adjoin its own. So r_{l+1} = r_l + 3^l for every order.

Attained. In the path's own order a slot's run ends with its own pair, and grows to the left by what the slot at its left
end knows: 2^l pairs, r_{l+1} = r_l + 2^l. In left/right/middle order the middle pair of each run of 3^l pairs knows it
after layer l, and the runs of 1, 3, 9, … are read one after the other. ∎

Lemma (lem-order). With the mask, let slot p stand later than slot q, and after layer 0 know the path at least as far
forwards as q. Then it does so after every layer. Mirrored for backwards. *Proof.* What takes q farther forwards, q', stands
before p too; either it ends within what p knows, or it holds the last token that p knows, and p reads it. ∎ So
a slot is taken forwards by slots of later pairs of the path only, and backwards by slots of earlier ones.

Lemma (lem-tail). Leaving out all pairs i ≥ m turns the reach r into min(r, m). *Proof*, with the mask, by induction on
layers of: (1) kept slots know what they knew, up to c_m; (2) where a slot q of a pair left out knew a token before c_m, the
first such being a, some kept slot before q knows a … c_m. For (1), backwards a slot is taken by kept ones only (lem-order);
forwards, a lost source that began before c_m has a substitute by (2), and the slot reads that. For (2), let q come to a by
reading q'. If q' is left out, its own substitute serves. If it is kept and reached c_m, it serves itself. If it is kept and
did not, q began before c_m already, had a substitute, this one and q' share a token, and the later of them reads the other.
∎

Lemma (lem-irrelevant). With the mask, pairs before the start and the place of pair 0 change nothing: r_{l+1} is one more
than what a reader of pairs 1, 2, … passes in l + 1 layers if it pauses in the first. *Proof.* Induction on the number of
pairs, by cutting at the latest pair k (lem-latest in `distribution`). If k lies before the start, it hides all pairs left
of it, and takes the last slot no farther, which knows the path at least as far forwards (lem-order). If it lies after the
start, all that matters of what its left neighbours tell it is whether it comes up to the last slot's front, which is not
before the start: lem-tail, mirrored, applies. Pair 0: if k = 0, the last slot stands after layer 1 where k stood before it,
and this is the pause; if k > 0, pair 0 is in the left part, where the induction applies. ∎

Proposition (prop-three-layers). With three layers r_1 = 1, and r_2 is the largest last token of a slot that knows c_1 after
layer 1. Those of pairs 0 and 1 end at c_3 at most, that of pair 2 knows c_1 … iff it is later than pair 1, and c_4 iff later
than pair 3; that of pair 3 knows c_2 at best. So r_2 = 4 iff pair 2 is the latest of pairs 1, 2, 3, which has probability
1/3; else 3.

Proposition (prop-rare). The upper bound is attained iff each run of 3^l pairs, l < L − 1, from the start on is *full*: its
middle slot knows it after layer l (equality in w_{l+1} ≤ 3 w_l asks this of all its thirds). A run is full iff its middle
pair is its latest, and the runs of 1, 3, …, 3^(l−1) pairs on both sides of it, counted from the middle, are full. Cut at the
latest pair, both sides are independent: its probability is u_l = 3^−l (u_0 … u_{l−1})², whence u_l = 3^−((3^l − 1)/2), and
P(upper bound) = u_0 u_1 … u_{L−2}. ∎
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import sympy
from sympy import Eq, Expr, Product, Rational, Sum

from theory.symbols import symbol

layers, layer = symbol(r"n_{\mathsf{L}}"), symbol("l")
width, lower, upper = symbol("w_l"), symbol(r"\underline{r}"), symbol(r"\overline{r}")
full, rare = symbol("u_l"), symbol(r"\overline{P}")


def full_probability() -> Expr:
    """u_l, the probability that a run of 3^l pairs in random order is full."""
    return 3 ** (-(3**layer - 1) / 2)


def geometric(base: int) -> Expr:
    """Σ base^l over the layers 0 to n_L − 2, in closed form."""
    return (base ** (layers - 1) - 1) / sympy.Integer(base - 1)


@cache
def derivation() -> Mapping[str, Eq]:
    """Every statement, in order, name → equation (chapter "Parallel reasoning")."""
    return {
        "width": Eq(width, 3**layer, evaluate=False),
        "lower_sum": Eq(lower, Sum(2**layer, (layer, 0, layers - 2)), evaluate=False),
        "lower_bound": Eq(lower, geometric(2), evaluate=False),
        "upper_sum": Eq(upper, Sum(3**layer, (layer, 0, layers - 2)), evaluate=False),
        "upper_bound": Eq(upper, geometric(3), evaluate=False),
        "full_run": Eq(full, full_probability(), evaluate=False),
        "rare_product": Eq(rare, Product(full_probability(), (layer, 0, layers - 2)), evaluate=False),
        "rare": Eq(rare, 3 ** (-(3 ** (layers - 1) - 2 * layers + 1) / 4), evaluate=False),
    }


@cache
def residuals() -> Mapping[str, Expr]:
    """Left side minus right side of every step by induction, simplified: each must be 0."""
    step = {layers: layers + 1}
    equations = derivation()
    found: dict[str, Expr] = {}
    for name, base in (("lower_bound", 2), ("upper_bound", 3)):
        total = equations[name].rhs
        found[f"{name}_start"] = total.subs(layers, 1)
        found[name] = total.subs(step) - total - base ** (layers - 1)

    def exponent(probability: Expr) -> Expr:
        return sympy.expand_log(sympy.log(probability) / sympy.log(3), force=True)

    rare_exponent = exponent(equations["rare"].rhs)
    full_exponent = exponent(full_probability())
    found["rare_start"] = rare_exponent.subs(layers, 1)
    found["rare"] = rare_exponent.subs(step) - rare_exponent - full_exponent.subs(layer, layers - 1)
    # u_l = 3^−l (u_0 … u_{l−1})², the product being that of n_L = l + 1 layers
    found["full_run"] = full_exponent + layer - 2 * rare_exponent.subs(layers, layer + 1)
    found["three_layers"] = equations["rare"].rhs.subs(layers, 3) - Rational(1, 3)
    return {name: sympy.simplify(sympy.expand(residual)) for name, residual in found.items()}
