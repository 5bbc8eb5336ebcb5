"""What a module imports, read from its source; and a digest of the code that a simulation reaches.

Nothing is imported to find out: files are parsed, so imports inside functions are seen, and one that fails is
no obstacle. Three things rest on this: the import rules, the code digests of records, and which pages are
stale.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENTRY_POINTS = ("simulate", "Config")
EXPERIMENTS = "sims.experiments."
NOT_SIMULATION = frozenset(
    f"sims.{name}"
    for name in (
        *("__main__", "agreement", "checkpoints", "claims", "contract", "engine", "fields", "outcome"),
        *("plotting", "pool", "recorded", "records", "source", "trainings"),
    )
)
"""Modules of the frame: what they do to a result does not depend on which code made it."""


def module_path(module: str, root: Path = ROOT) -> Path | None:
    """The file of a module below `root`, None when there is none (it lies elsewhere, or is no module)."""
    base = root.joinpath(*module.split("."))
    for candidate in (base / "__init__.py", base.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _imports(
    nodes: Iterable[ast.AST], package: str, root: Path, used: Collection[str] | None = None
) -> Iterator[tuple[str, str | None]]:
    """(module, name or None for the module itself) of every import below the nodes.

    - `package`: the package that relative imports start from.
    - `used`: of a top-level import only the names in here count; None counts all.
    """
    for top in nodes:
        for node in ast.walk(top):
            kept = used if node is top else None
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if kept is None or (alias.asname or alias.name.split(".")[0]) in kept:
                        yield alias.name, None
            elif isinstance(node, ast.ImportFrom):
                start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                module = ".".join([*start, *([node.module] if node.module else [])])
                for alias in node.names:
                    if kept is None or alias.name == "*" or (alias.asname or alias.name) in kept:
                        inner = f"{module}.{alias.name}"
                        yield (inner, None) if module_path(inner, root) else (module, alias.name)
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                    yield node.args[0].value, None


def _package(module: str, path: Path) -> str:
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def direct_imports(module: str, root: Path = ROOT) -> set[str]:
    """Modules that the file of `module` names in an import, anywhere in it, of this project or not.

    For `from a import b`, it is `a.b` where that is a module below `root`, else `a`. Also sees
    `importlib.import_module("a")` with a constant. Raises ValueError when the module has no file.
    """
    path = module_path(module, root)
    if path is None:
        raise ValueError(f"module is {module!r}; there is no such file below {root}.")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {name for name, _ in _imports([tree], _package(module, path), root)}


def imported_modules(module: str, roots: Collection[str] = ("theory", "sims"), root: Path = ROOT) -> set[str]:
    """Modules below `roots` that importing `module` can reach, through any number of steps, without itself.

    Packages on the way count too, since their `__init__` is executed. Raises ValueError when it has no file.
    """
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current in seen or (current != module and module_path(current, root) is None):
            continue
        seen.add(current)
        named = direct_imports(current, root)
        named = named.union(_parents(current), *(_parents(one) for one in named))
        waiting += [one for one in named if one.split(".")[0] in roots]
    return seen - {module}


def code_digest(
    experiment: Path,
    root: Path = ROOT,
    ignoring: Collection[str] = NOT_SIMULATION,
    entry_points: Collection[str] = ENTRY_POINTS,
) -> str:
    """Digest (64 hexadecimal digits) of the code that can change what an experiment's `simulate` returns.

    With other `entry_points`, of what these names of the file do, such as the class of a recipe.
    Of the experiment's file, the top-level definitions that the entry points reach by name, and the
    imports these use; a change to `predict`, claims, figures or scales leaves it as it is. Of every other
    module in sims and theory the whole file, except that a package's `__init__` counts only for the names
    asked of it, and another experiment only for its `simulate` and `Config` (what experiments share, in a file
    whose name begins with _, counts whole). Comments, docstrings and layout
    never count, nor do the modules in `ignoring`.
    """
    parts: dict[str, str] = {}
    waiting: list[tuple[str, frozenset[str] | None]] = []

    def follow(nodes: Iterable[ast.AST], package: str, used: Collection[str] | None) -> None:
        for module, name in _imports(nodes, package, root, used):
            if module.split(".")[0] in ("sims", "theory") and module not in ignoring:
                waiting.append((module, None if name is None else frozenset({name})))

    nodes, names = _reachable(_parse(experiment), entry_points)
    parts["the experiment"] = _canonical_text(nodes, names)
    try:
        package = ".".join(experiment.resolve().parent.relative_to(root).parts)
    except ValueError:
        package = ""
    follow(nodes, package, names)
    asked: dict[str, set[str] | None] = {}
    while waiting:
        module, wanted = waiting.pop()
        path = module_path(module, root)
        if path is None:
            continue
        known = asked.get(module, set())
        if module.startswith(EXPERIMENTS) and not module.removeprefix(EXPERIMENTS).startswith("_"):
            wanted = frozenset(ENTRY_POINTS)
        elif path.name != "__init__.py" or wanted is None or "*" in wanted:
            wanted = None
        if known is None or (wanted is not None and module in asked and wanted <= known):
            continue
        asked[module] = None if wanted is None else known | wanted
        tree, used = _parse(path).body, None
        if asked[module] is not None:
            tree, used = _reachable(ast.Module(tree, []), asked[module] or set())
        parts[module] = _canonical_text(tree, used)
        follow(tree, _package(module, path), used)
    joined = "\n".join(f"{module}\n{parts[module]}" for module in sorted(parts))
    return hashlib.sha256(joined.encode()).hexdigest()


def _parse(path: Path) -> ast.Module:
    """The file's tree without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return tree


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a top-level statement defines or may change; for a bare expression, all that it mentions."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.split(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign):
        return set().union(*(_names(target) for target in statement.targets))
    if isinstance(statement, ast.AnnAssign | ast.AugAssign):
        return _names(statement.target)
    blocks = [
        child for child in ast.walk(statement) if isinstance(child, ast.stmt) and child is not statement
    ]
    return _names(statement).union(*(_bound(child) for child in blocks))


def _reachable(tree: ast.Module, entries: Iterable[str]) -> tuple[list[ast.stmt], set[str]]:
    """The top-level statements that the entry names reach, in their order, and all names these use."""
    bound = [_bound(statement) for statement in tree.body]
    names, kept = set(entries), set[int]()
    grown = True
    while grown:
        grown = False
        for index, statement in enumerate(tree.body):
            if index not in kept and (bound[index] & names or "*" in bound[index]):
                kept.add(index)
                names |= _names(statement)
                grown = True
    return [tree.body[index] for index in sorted(kept)], names


def _canonical_text(nodes: Iterable[ast.AST], used: Collection[str] | None) -> str:
    return "\n".join(_canonical(node, used) for node in nodes)


def _canonical(node: object, used: Collection[str] | None = None) -> str:
    """A tree as text that no version of Python writes differently: empty fields and positions are left
    out."""
    if isinstance(node, list):
        return "[" + ",".join(_canonical(item) for item in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name in node._fields:
        value = getattr(node, name, None)
        if used is not None and name == "names" and isinstance(node, ast.Import | ast.ImportFrom):
            value = [
                one
                for one in value or []
                if (one.asname or one.name.split(".")[0]) in used or one.name == "*"
            ]
        if value is not None and value != [] and not (isinstance(node, ast.Constant) and name == "kind"):
            parts.append(f"{name}={_canonical(value)}")
        elif isinstance(node, ast.Constant) and name == "value":
            parts.append("value=None")
    return f"{type(node).__name__}({','.join(parts)})"
