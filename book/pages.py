"""What a page of the book depends on, and which names of the project it uses.

A page is a MyST file. Its code cells say which modules of `theory` and `sims` it imports and which
experiments it runs; the files behind those names, and the committed records of those experiments, decide
when it must run again.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from myst_nb.core.read import read_myst_markdown_notebook
from nbformat import NotebookNode

from sims.contract import SCALE_NAMES
from sims.source import imported_modules, module_path

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent
PACKAGES = ("theory", "sims")
MADE_BY_BUILD = ("generated/", "apidocs/")
CLAIM_LINK = re.compile(r"claim-([a-z0-9][a-z0-9.-]*[a-z0-9]|[a-z0-9])", re.IGNORECASE)
WRITTEN_FILE = re.compile(r"^%%writefile\s+(\S+)", re.MULTILINE)
RECORD_NAME = re.compile(r"recorded/([\w.-]+\.(?:nc|json|npz|csv))")


class PageError(ValueError):
    """A page that cannot be built; the message is one sentence for its author."""


@dataclass(frozen=True)
class Names:
    """What the code cells of a page name: modules, (experiment, scale) pairs, figures and claims."""

    modules: frozenset[str]
    experiments: frozenset[tuple[str, str]]
    figures: frozenset[str]
    claims: frozenset[str]


@dataclass(frozen=True)
class Page:
    """One MyST file of the book, named by its path below book/ without `.md`."""

    name: str
    path: Path = field(compare=False)

    @cached_property
    def text(self) -> str:
        """The whole file."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def front_matter(self) -> dict[str, Any]:
        """The YAML header, empty when there is none."""
        if not self.text.startswith("---\n"):
            return {}
        header = yaml.safe_load(self.text.split("\n---", 1)[0].removeprefix("---\n"))
        return header if isinstance(header, dict) else {}

    @property
    def has_cells(self) -> bool:
        """Whether the page asks for cells to be run."""
        return re.search(r"^`{3,}\{code-cell\}|^:{3,}\{code-cell\}", self.text, re.MULTILINE) is not None

    @cached_property
    def notebook(self) -> NotebookNode:
        """The page as a notebook, exactly as the cache of executed pages sees it."""
        return read_myst_markdown_notebook(self.text, add_source_map=True, path=self.path)

    @cached_property
    def cells(self) -> list[NotebookNode]:
        """The code cells, in order."""
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"] if self.has_cells else []

    @cached_property
    def names(self) -> Names:
        """The names the code cells use; PageError when a cell is not Python."""
        modules: set[str] = set()
        experiments: set[tuple[str, str]] = set()
        figures: set[str] = set()
        claims: set[str] = {match.upper() for match in CLAIM_LINK.findall(self.text)}
        for cell in self.cells:
            source = re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE)
            try:
                tree = ast.parse(source)
            except SyntaxError as error:
                raise PageError(
                    f"{self.path.name}: a cell is not Python ({error.msg}, cell line {error.lineno})."
                ) from error
            for node in ast.walk(tree):
                modules.update(_modules_imported(node))
                if isinstance(node, ast.Call):
                    called = (
                        node.func.attr
                        if isinstance(node.func, ast.Attribute)
                        else getattr(node.func, "id", "")
                    )
                    first = (
                        node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
                    )
                    if not isinstance(first, str):
                        continue
                    if called == "run" and _is_run_of_sims(node.func):
                        experiments.add((first, _scale(node)))
                    elif called == "figure":
                        figures.add(first)
                    elif called in ("claim", "verdict"):
                        claims.add(first.upper())
        return Names(frozenset(modules), frozenset(experiments), frozenset(figures), frozenset(claims))

    @cached_property
    def written_files(self) -> frozenset[str]:
        """Names of files that the page's own cells write."""
        return frozenset(name for cell in self.cells for name in WRITTEN_FILE.findall(cell.source))

    @cached_property
    def records(self) -> frozenset[str]:
        """Names of files below book/recorded/ that the page mentions."""
        return frozenset(RECORD_NAME.findall(self.text))


def _modules_imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES)
    elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)  # which may be modules


def _is_run_of_sims(function: ast.expr) -> bool:
    """`sims.run(…)`, or a bare `run(…)` imported from sims."""
    if isinstance(function, ast.Attribute):
        return isinstance(function.value, ast.Name) and function.value.id == "sims"
    return isinstance(function, ast.Name)


def _scale(call: ast.Call) -> str:
    given = call.args[1:2] + [keyword.value for keyword in call.keywords if keyword.arg == "scale"]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else "laptop"


def pages_of(book: Path = BOOK) -> list[Page]:
    """The hand-written pages, in the order of `_toc.yml`; PageError when one of them is missing."""
    contents = yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))
    names = [name for name in _files_in(contents) if not name.startswith(MADE_BY_BUILD)]
    missing = [name for name in names if not (book / f"{name}.md").is_file()]
    if missing:
        raise PageError(f"_toc.yml names {missing[0]!r}, but book/{missing[0]}.md is not there.")
    return [Page(name, book / f"{name}.md") for name in names]


def _files_in(contents: Any) -> Iterator[str]:
    if isinstance(contents, dict):
        for key, value in contents.items():
            if key in ("root", "file"):
                yield value
            else:
                yield from _files_in(value)
    elif isinstance(contents, list):
        for entry in contents:
            yield from _files_in(entry)


def file_digests(page: Page, root: Path = ROOT) -> dict[str, str]:
    """SHA-256 of every file whose change makes the page stale, by its path below the project's root.

    These are the modules of `theory` and `sims` that its cells and its experiments import, directly or
    through others, and the committed records of its experiments.
    """
    recorded = root / "book" / "recorded"
    modules = set(page.names.modules)
    files = {recorded / name for name in page.records}
    for name, _ in page.names.experiments:
        if name.endswith(".py"):
            files.add(page.path.parent / name)
            if (page.path.parent / name).is_file():
                tree = ast.parse((page.path.parent / name).read_text(encoding="utf-8"))
                modules.update(module for node in ast.walk(tree) for module in _modules_imported(node))
        else:
            modules.add(f"sims.experiments.{name}")
            files.update(recorded.glob(f"{name}-*"))
    if page.names.claims:
        files.add(recorded / "verdicts.json")
    named = {module for module in modules if module_path(module, root)}
    for module in named.union(*(imported_modules(module, PACKAGES, root) for module in named)):
        file = module_path(module, root)
        if file is not None:
            files.add(file)
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
        if file.is_file()
    }


def changes(before: dict[str, str] | None, now: dict[str, str]) -> list[str]:
    """Why a page is stale, one reason a line; empty when it is not."""
    if before is None:
        return ["it was never executed here"]
    reasons = [f"{name} changed" for name in now if name in before and before[name] != now[name]]
    reasons += [f"{name} is new to it" for name in now if name not in before]
    return reasons + [f"{name} is gone" for name in before if name not in now]


def wrong_names(pages: Iterable[Page], figures: Mapping[str, set[str]], claims: set[str]) -> list[str]:
    """One sentence for each experiment, scale, figure, claim or record that a page names and nobody has.

    - `figures`: names of the figures of every experiment, by the experiment's name.
    - `claims`: identifiers of all claims.
    """
    problems: list[str] = []
    for page in pages:
        known_figures: set[str] = set()
        complete = bool(page.names.experiments)
        for name, scale in sorted(page.names.experiments):
            if scale not in SCALE_NAMES:
                problems.append(_sentence(page, f"scale of {name!r}", scale, SCALE_NAMES))
            if name.endswith(".py"):
                complete = False
                if name not in page.written_files and not (page.path.parent / name).is_file():
                    problems.append(
                        f"{page.path.name} names the experiment file {name!r}, which is not there."
                    )
            elif name in figures:
                known_figures |= figures[name]
            else:
                complete = False
                problems.append(_sentence(page, "experiment", name, figures))
        if complete:
            unknown = sorted(page.names.figures - known_figures)
            problems += [_sentence(page, "figure", name, known_figures) for name in unknown]
        unknown = sorted(page.names.claims - {claim.upper() for claim in claims})
        problems += [_sentence(page, "claim", name, claims) for name in unknown]
        problems += [
            f"{page.path.name} names the record book/recorded/{name}, which is not there."
            for name in sorted(page.records)
            if not (page.path.parent / "recorded" / name).is_file()
        ]
    return problems


def _sentence(page: Page, kind: str, name: str, known: Iterable[str]) -> str:
    allowed = ", ".join(sorted(known)) or "none yet"
    return f"{page.path.name} names the {kind} {name!r}; it must be one of: {allowed}."
