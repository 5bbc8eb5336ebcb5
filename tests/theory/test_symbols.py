"""The notation table: one name, one meaning."""

import dataclasses

import pytest
import sympy

from theory.symbols import SYMBOLS, symbol, table


def test_no_symbol_latex_or_meaning_is_used_twice() -> None:
    entries = list(SYMBOLS.values())
    for field in ("symbol", "latex", "code_name", "meaning"):
        values = [getattr(entry, field) for entry in entries]
        assert len(set(values)) == len(values), field
    names = [entry.symbol.name for entry in entries]
    assert len(set(names)) == len(names)  # SymPy tells symbols apart by assumptions too; readers do not


def test_every_symbol_is_called_by_its_latex_and_described() -> None:
    for latex, entry in SYMBOLS.items():
        assert entry.latex == latex
        assert entry.symbol.name == latex
        assert isinstance(entry.symbol, sympy.Symbol)
        assert symbol(latex) is entry.symbol
        assert entry.code_name.strip()
        assert len(entry.meaning) > 10


def test_table_has_every_symbol_in_order() -> None:
    assert [row[0] for row in table()] == list(SYMBOLS)
    assert table()[0] == ("n", "n_tokens", SYMBOLS["n"].meaning)


def test_an_unknown_symbol_is_refused_and_the_table_is_read_only() -> None:
    with pytest.raises(KeyError, match="Omega"):
        symbol(r"\Omega")
    with pytest.raises(TypeError):
        SYMBOLS["x"] = SYMBOLS["n"]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        SYMBOLS["n"].meaning = "something else"  # type: ignore[misc]
