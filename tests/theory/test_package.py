"""The package `theory` imports its topics when they are asked for, and no others exist."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import theory


def test_topics_are_attributes() -> None:
    for name in theory.__all__:
        assert getattr(theory, name).__name__ == f"theory.{name}"


def test_unknown_topic_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'theory' has no attribute 'alchemy'"):
        theory.alchemy  # noqa: B018


@pytest.mark.parametrize("topic", [name for name in theory.__all__ if name != "symbols"])
def test_a_topic_lists_all_that_it_offers(topic: str) -> None:
    """`__all__` is sorted as ruff sorts it, without doubles, and holds every public name but modules."""
    package = importlib.import_module(f"theory.{topic}")
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }
    assert set(package.__all__) == public
    assert len(set(package.__all__)) == len(package.__all__)


def test_noisy_recall_offers_every_public_class_and_function_of_its_modules() -> None:
    """But a few helpers that its modules share among themselves."""
    package = importlib.import_module("theory.noisy_recall")
    shared = {"check_features", "require_uniform", "swap_target"}
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"theory.noisy_recall.{found.name}")
        if (
            found.name == "proof"
        ):  # its steps are for reading; `derivation` and `residuals` are what they make
            continue
        own = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        }
        assert own - shared <= set(package.__all__), found.name


@pytest.mark.parametrize("topic", theory.__all__)
def test_a_topic_needs_neither_torch_nor_matplotlib(topic: str) -> None:
    """In a fresh interpreter, by the attribute of `theory` as a reader would."""
    code = f"import sys, theory; theory.{topic}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(done.stdout.split())
    assert f"theory.{topic}" in loaded
    assert not loaded & {"torch", "matplotlib", "xarray", "sims"}
