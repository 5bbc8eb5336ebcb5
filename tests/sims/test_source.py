"""What modules import, and what moves a code digest."""

from pathlib import Path

import pytest

from sims.source import code_digest, direct_imports, imported_modules

EXPERIMENT = '''"""Question?"""
from dataclasses import dataclass
import numpy as np
from sims.contract import Scale
from sims.model import grow, shrink
from theory import answers
from theory.problems import Memory
LENGTH = 3
STEP = 2
@dataclass(frozen=True)
class Config:
    n: int = LENGTH
SCALES = {"smoke": Scale(Config())}
def _helper(n):
    "Docstring."
    from sims.lazy import late
    return grow(n) + STEP + late
def simulate(runs, device):
    return [_helper(Memory) for _ in runs]
def predict(config):
    return answers.value(config) + shrink(2)
CLAIMS = ()
FIGURES = {"a": lambda outcome: np.zeros(3)}
'''
FILES = {
    "sims/__init__.py": "from sims.engine import run\n",
    "sims/engine.py": "import sims.contract\n",
    "sims/contract.py": "class Scale: ...\n",
    "sims/model.py": "from . import deep\ndef grow(n): return deep.f(n)\ndef shrink(n): return n\n",
    "sims/deep/__init__.py": "from sims.deep.inner import f\nfrom sims.deep.other import g\n",
    "sims/deep/inner.py": "def f(n): return n\n",
    "sims/deep/other.py": "def g(n): return n\n",
    "sims/lazy.py": "late = 3\n",
    "sims/experiments/__init__.py": "",
    "sims/experiments/one.py": EXPERIMENT,
    "theory/__init__.py": "from theory import answers\n",
    "theory/answers.py": "import numpy\ndef value(x): return x\n",
    "theory/problems/__init__.py": "from theory.problems.memory import Memory\nfrom theory.problems.far import Far\n",
    "theory/problems/memory.py": "class Memory: ...\n",
    "theory/problems/far.py": "class Far: ...\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def digest(tree: Path) -> str:
    return code_digest(tree / "sims/experiments/one.py", tree)


def test_imports_are_followed_through_lazy_relative_and_package_imports(tree: Path) -> None:
    reached = imported_modules("sims.experiments.one", root=tree)
    assert {"sims.lazy", "sims.deep", "sims.deep.inner", "sims.deep.other", "sims.engine", "sims"} <= reached
    assert {"theory.answers", "theory.problems.memory", "theory.problems.far"} <= reached
    assert "sims.experiments.one" not in reached
    assert imported_modules("sims.experiments.one", ("theory",), tree) == {
        "theory", "theory.answers", "theory.problems", "theory.problems.memory", "theory.problems.far",
    }  # fmt: skip


def test_direct_imports_see_every_way_to_import(tree: Path) -> None:
    (tree / "sims/odd.py").write_text(
        "import importlib, torch.nn as nn\nfrom .deep import inner, f\nif False:\n    from theory.answers import value\n"
        "importlib.import_module('matplotlib')\n"
    )
    found = direct_imports("sims.odd", tree)
    assert found == {"importlib", "torch.nn", "sims.deep.inner", "sims.deep", "theory.answers", "matplotlib"}
    with pytest.raises(ValueError, match=r"sims\.nothing"):
        direct_imports("sims.nothing", tree)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("sims/experiments/one.py", "STEP = 2", "STEP = 5"),
        ("sims/experiments/one.py", "LENGTH = 3", "LENGTH = 4"),
        ("sims/experiments/one.py", "grow(n) +", "grow(n) -"),
        ("sims/experiments/one.py", "def _helper", "LENGTH += 1\ndef _helper"),
        ("sims/model.py", "return n", "return -n"),
        ("sims/deep/inner.py", "return n", "return 2 * n"),
        ("sims/lazy.py", "3", "4"),
        ("theory/problems/memory.py", "...", "x = 1"),
    ],
)
def test_a_change_that_the_simulation_reaches_moves_the_digest(
    tree: Path, name: str, old: str, new: str
) -> None:
    before = digest(tree)
    path = tree / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert digest(tree) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("sims/experiments/one.py", "np.zeros(3)", "np.ones(3)"),
        ("sims/experiments/one.py", "CLAIMS = ()", "CLAIMS = (1,)"),
        ("sims/experiments/one.py", "answers.value(config)", "3 * answers.value(config)"),
        ("sims/experiments/one.py", "Scale(Config())", "Scale(Config(n=9))"),
        ("sims/experiments/one.py", '"Docstring."', '"Another."\n    # and a comment'),
        ("sims/experiments/one.py", "import numpy as np", "import numpy as np\nimport matplotlib"),
        ("sims/experiments/one.py", "import grow, shrink", "import grow\nfrom sims.model import shrink"),
        ("sims/engine.py", "import sims.contract", "import sims.contract\nX = 1"),
        ("sims/contract.py", "...", "x = 1"),
        ("sims/__init__.py", "import run", "import run\nX = 1"),
        ("theory/answers.py", "return x", "return 2 * x"),
        ("theory/problems/far.py", "...", "x = 1"),
        ("sims/lazy.py", "late = 3", "late  =  3  # late"),
    ],
)
def test_a_change_beside_the_simulation_leaves_the_digest(tree: Path, name: str, old: str, new: str) -> None:
    before = digest(tree)
    path = tree / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert digest(tree) == before


def test_a_file_outside_the_checkout_has_a_digest(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "mine.py"
    outside.write_text(EXPERIMENT)
    before = code_digest(outside, tree)
    (tree / "sims/lazy.py").write_text("late = 4\n")
    assert code_digest(outside, tree) != before


def test_another_experiment_counts_for_its_simulation_only(tree: Path) -> None:
    """An experiment that borrows the runs of another one keeps its records when the other's claims change."""
    borrower = tree / "sims" / "experiments" / "two.py"
    borrower.write_text(
        "from sims.experiments import one\n\n\ndef simulate(runs, device):\n    return one.simulate(runs, device)\n"
    )
    before = code_digest(borrower, root=tree)
    lender = tree / "sims" / "experiments" / "one.py"
    text = lender.read_text()
    lender.write_text(text + "\nCLAIMS = ('something else',)\n")
    assert code_digest(borrower, root=tree) == before
    lender.write_text(text.replace("def simulate(runs, device):", "def simulate(runs, device, speed=2):"))
    assert code_digest(borrower, root=tree) != before
