"""Every equation against numbers: contents and scores on random matrices, closed forms against the numeric functions."""

import math

import numpy as np
import pytest
import sympy

from theory.matching import (
    Construction,
    contents,
    derivation,
    expected_matching_score,
    gaussian_scores,
    mean_units,
    projector_absolute_entry,
    projector_scores,
    residuals,
    score_parts,
)
from theory.symbols import SYMBOLS, symbol

WIDTH = 5


def evaluate(expression: sympy.MatrixExpr, values: dict[str, np.ndarray]) -> np.ndarray:
    """A matrix expression in numbers, by its tree."""
    if isinstance(expression, sympy.MatrixSymbol):
        return values[expression.name]
    parts = [evaluate(part, values) for part in expression.args if isinstance(part, sympy.MatrixExpr)]
    if isinstance(expression, sympy.MatAdd):
        return np.sum(parts, axis=0)
    if isinstance(expression, sympy.MatMul):
        return np.linalg.multi_dot([np.eye(len(parts[0])), *parts])
    if isinstance(expression, sympy.Transpose):
        return parts[0].T
    assert isinstance(expression, sympy.MatPow)
    return np.linalg.matrix_power(parts[0], int(expression.exp))


def test_contents_and_scores_are_those_of_a_forward_pass() -> None:
    generator = np.random.default_rng(0)
    values = {rf"W_{{\mathsf{{vo}},{layer}}}": generator.normal(size=(WIDTH, WIDTH)) for layer in range(3)}
    values |= {rf"W_{{\mathsf{{qk}},{layer}}}": generator.normal(size=(WIDTH, WIDTH)) for layer in (1, 2)}
    values |= {f"e_{token}": generator.normal(size=(WIDTH, 1)) for token in "abc"}
    equations = derivation()
    outputs = np.stack([values[rf"W_{{\mathsf{{vo}},{layer}}}"] for layer in range(3)])
    embeddings = {token: values[f"e_{token}"][:, 0] for token in "abc"}
    # Slots of a → b and b → c after their key slots, then the last position.
    reads = [[None, 0, None, 2, None], [None] * 4 + [1], [None] * 4 + [3]]
    flow = contents([("a",), ("b",), ("b",), ("c",), ("a",)], reads)
    streams = np.stack([embeddings[token] for token in "abbca"])
    for layer, row in enumerate(reads):
        if layer:
            query_matrix = values[rf"W_{{\mathsf{{qk}},{layer}}}"]
            score = streams[-1] @ query_matrix @ streams[row[-1]]
            found = evaluate(equations[f"score_{layer}"].rhs, values).item()
            # Sums of some products of ten random numbers each.
            assert found == pytest.approx(score, rel=1e-10)
            parts = score_parts(flow[layer][-1], flow[layer][row[-1]], query_matrix, outputs, embeddings)
            assert sum(parts.values()) == pytest.approx(score, rel=1e-10)
            assert len(parts) == len(equations[f"score_{layer}"].rhs.args)
        read = np.stack([np.zeros(WIDTH) if source is None else streams[source] for source in row])
        streams = streams + read @ outputs[layer].T
        if layer == 0:
            for name, place in (("slot_ab", 1), ("slot_bc", 3)):
                np.testing.assert_allclose(evaluate(equations[name].rhs, values)[:, 0], streams[place])
        np.testing.assert_allclose(evaluate(equations[f"last_{layer}"].rhs, values)[:, 0], streams[-1])
    logit = embeddings["c"] @ outputs[2].T @ streams[-1]
    assert evaluate(equations["logit"].rhs, values).item() == pytest.approx(logit, rel=1e-10)
    for name, ideal in (("kernel_1", "perfect_1"), ("kernel_2", "perfect_2")):
        orthogonal = {
            key: np.linalg.qr(value)[0] if len(value.T) > 1 else value for key, value in values.items()
        }
        target = equations[ideal].lhs.name
        orthogonal[target] = evaluate(equations[ideal].rhs, orthogonal)
        np.testing.assert_allclose(evaluate(equations[name].rhs, orthogonal), np.eye(WIDTH), atol=1e-12)


def test_noise_equations_on_random_orthogonal_matrices() -> None:
    generator = np.random.default_rng(1)
    values = {f"Z_{layer}": np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))[0] for layer in range(3)}
    equations = derivation()
    for name in ("remembered_1", "remembered_raw", "corrected_2"):
        np.testing.assert_allclose(evaluate(equations[name].rhs, values), np.eye(WIDTH), atol=1e-12)
    assert abs(evaluate(equations["remembered_2"].rhs, values) - np.eye(WIDTH)).max() > 0.1


@pytest.mark.parametrize(("width", "rank"), [(400, 64), (30, 7)])
def test_closed_forms_are_the_numeric_functions(width: int, rank: int) -> None:
    equations = derivation()

    def value(name: str) -> float:
        return float(equations[name].rhs.subs({symbol("d"): width, symbol("d_k"): rank}).evalf())

    for layer in (1, 2):
        law = gaussian_scores(layer, width)
        assert value(f"kernel_score_{layer}") == pytest.approx(law.kernel_score, rel=1 / width)
        assert value(f"alignment_{layer}") == pytest.approx(law.alignment, rel=1 / width)
        assert math.sqrt(width / value(f"square_{layer}")) == pytest.approx(law.alignment, rel=1e-14)
    law = projector_scores(width, rank)
    assert value("alignment_ceiling") == pytest.approx(law.alignment, rel=1e-14)
    assert value("projector_ratio") == pytest.approx(law.diagonal_ratio, rel=1e-13)
    # Γ functions near 10^300 and back.
    assert value("projector_absolute") == pytest.approx(projector_absolute_entry(width, rank), rel=1e-10)
    assert value("projector_off_diagonal") == pytest.approx(
        (law.alignment**2 / law.diagonal_ratio) ** 2, rel=1e-13
    )


def test_the_bound_of_the_matching_score() -> None:
    """Below the mean score at every scale, and close at small ones."""
    bound = derivation()["matching_score_bound"].rhs
    for scale in (0.1, 1.0, 3.0, 8.0):
        numbers = {symbol(r"\chi"): scale, symbol("n_X"): 102, symbol("d"): 400, symbol(r"\sigma_K"): 0.05}
        low = float(bound.subs(numbers))
        score = expected_matching_score(scale, 102, 400, 0.05)
        assert low <= score + 1e-9
        if scale <= 1:
            assert low == pytest.approx(score, rel=0.01)


def test_units_double_and_bound_those_of_the_construction() -> None:
    counted = derivation()["units"].rhs
    for layer, units in enumerate(mean_units(Construction(5, 64))):
        most = int(counted.subs(symbol("l"), layer))
        assert np.all(units <= most + 1e-12)
        assert units[-1] >= most / 2


def test_residuals_vanish() -> None:
    assert len(residuals()) == 13
    assert all(residual == 0 for residual in residuals().values())


def test_symbols_are_in_the_table() -> None:
    for name, equation in derivation().items():
        assert equation.lhs != equation.rhs, name
        names = {
            part.name for part in sympy.preorder_traversal(equation) if isinstance(part, sympy.MatrixSymbol)
        }
        names |= {part.name for part in equation.free_symbols if isinstance(part, sympy.Symbol)}
        assert names <= set(SYMBOLS), name
