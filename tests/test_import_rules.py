"""Who may import whom; each rule comes with a planted violation that its detector must find.

theory imports neither torch, matplotlib, xarray nor sims. Of theory, sims outside sims/experiments sees the
problem definitions alone, so that agreement is evidence and not shared code.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from sims.source import ROOT, direct_imports

FORBIDDEN_IN_THEORY = {"torch", "matplotlib", "xarray", "sims", "pandas"}


def modules(package: str, root: Path) -> list[str]:
    """Every module of a package, by its files."""
    paths = sorted(path.relative_to(root).with_suffix("") for path in (root / package).rglob("*.py"))
    return [".".join(path.parts[:-1] if path.name == "__init__" else path.parts) for path in paths]


def theory_violations(root: Path = ROOT) -> list[str]:
    return [
        f"{module} imports {name}"
        for module in modules("theory", root)
        for name in sorted(direct_imports(module, root))
        if name.split(".")[0] in FORBIDDEN_IN_THEORY
    ]


def sims_violations(root: Path = ROOT) -> list[str]:
    return [
        f"{module} imports {name}"
        for module in modules("sims", root)
        for name in sorted(direct_imports(module, root))
        if not module.startswith("sims.experiments")
        and name.split(".")[0] == "theory"
        and name.split(".")[:2] != ["theory", "problems"]
    ]


def test_theory_imports_nothing_of_the_other_side() -> None:
    assert len(modules("theory", ROOT)) > 3
    assert theory_violations() == []


def test_sims_sees_problem_definitions_alone() -> None:
    assert len(modules("sims", ROOT)) > 10
    assert sims_violations() == []


@pytest.mark.parametrize(
    "line", ["import torch", "from sims.x import y", "def f():\n    import matplotlib.pyplot"]
)
def test_the_rule_for_theory_can_fail(tmp_path: Path, line: str) -> None:
    (tmp_path / "theory").mkdir()
    (tmp_path / "theory/__init__.py").write_text("import numpy\n")
    assert theory_violations(tmp_path) == []
    (tmp_path / "theory/topic.py").write_text(line + "\n")
    assert len(theory_violations(tmp_path)) == 1


@pytest.mark.parametrize(
    "line",
    ["import theory", "from theory import low_rank", "def f():\n    from theory.low_rank import spectrum"],
)
def test_the_rule_for_sims_can_fail(tmp_path: Path, line: str) -> None:
    for folder in ("sims/experiments", "theory/problems"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "theory/low_rank.py").write_text("")
    (tmp_path / "theory/problems/__init__.py").write_text("")
    (tmp_path / "sims/tasks.py").write_text(
        "from theory.problems import Memory\nfrom theory import problems\n"
    )
    (tmp_path / "sims/experiments/one.py").write_text(line + "\n")
    assert sims_violations(tmp_path) == []
    (tmp_path / "sims/model.py").write_text(line + "\n")
    assert len(sims_violations(tmp_path)) == 1


def imported_by(statements: str) -> set[str]:
    """Forbidden packages that a fresh interpreter has loaded after these statements."""
    code = f"import sys\n{statements}\nprint(*{sorted(FORBIDDEN_IN_THEORY)!r} & sys.modules.keys())"
    code = code.replace("print(*[", "print(*set([").replace("] &", "]) &")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def test_importing_all_of_theory_loads_nothing_of_the_other_side() -> None:
    assert imported_by("\n".join(f"import {module}" for module in modules("theory", ROOT))) == set()


def test_the_look_into_a_fresh_interpreter_can_fail() -> None:
    assert "xarray" in imported_by("import xarray")
