"""Sphinx additions of this book: executed notebooks as downloads, and links to re-exported names.

The theme shows a download for `.ipynb` when a page's context names one; here it is named for every page that
has code cells, and the notebooks in `_build/jupyter_execute` are copied beside the sources.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode


def _executed_notebook(app: Sphinx, page_name: str) -> Path:
    return Path(app.outdir).parent / "jupyter_execute" / f"{page_name}.ipynb"


def name_notebook(
    app: Sphinx, page_name: str, _template: str, context: dict[str, Any], _doctree: object
) -> None:
    """Tell the theme which executed notebook belongs to the page, if it has one."""
    if page_name in getattr(app.env, "nb_metadata", {}) and _executed_notebook(app, page_name).is_file():
        context["ipynb_source"] = f"{page_name}.ipynb"


def copy_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Copy the executed notebooks to `_sources/`, where the download buttons point."""
    if exception is not None or app.builder.format != "html":
        return
    for page_name in sorted(app.env.found_docs):
        notebook = _executed_notebook(app, page_name)
        if notebook.is_file():
            target = Path(app.outdir) / "_sources" / f"{page_name}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(notebook, target)


def resolve_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Find a Python name that is documented in another module, or as another kind of object.

    `theory.problems.AssociativeMemory` is documented where it is defined, one module deeper; a type alias is
    documented as data and used as a class. Nothing is linked when two objects could be meant.
    """
    target = node.get("reftarget", "")
    package, _, last = target.rpartition(".")
    if node.get("refdomain") != "py" or target.split(".")[0] not in ("theory", "sims"):
        return None
    objects = env.get_domain("py").objects  # type: ignore[attr-defined]
    inside = [name for name in objects if name.startswith(f"{package}.") and name.endswith(f".{last}")]
    names = [target] if target in objects else inside
    if len(names) != 1:
        return None
    found = objects[names[0]]
    return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, content, names[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the three steps."""
    app.connect("html-page-context", name_notebook)
    app.connect("build-finished", copy_notebooks)
    app.connect("missing-reference", resolve_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
