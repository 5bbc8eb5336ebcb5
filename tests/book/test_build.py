"""The book's build: which pages are stale, which names are refused, what the generated pages say."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import build
import generated_pages
import pages
import pytest

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A page

"""


def cell(*lines: str) -> str:
    return "\n".join(["```{code-cell} ipython3", *lines, "```", ""])


def write_page(folder: Path, name: str, *blocks: str) -> pages.Page:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text(HEADER + "\n".join(blocks), encoding="utf-8")
    return pages.Page(name, path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project of the same shape: two theory modules, one experiment, a record."""
    files = {
        "theory/__init__.py": "",
        "theory/waves.py": "from theory.helpers import double\n",
        "theory/helpers.py": "def double(x):\n    return 2 * x\n",
        "theory/rivers.py": "LENGTH = 3\n",
        "sims/__init__.py": "",
        "sims/engine.py": "import sims.runner\n",
        "sims/runner.py": "",
        "sims/experiments/__init__.py": "",
        "sims/experiments/ripples.py": "def predict(config):\n    from theory import waves\n",
        "book/recorded/ripples-laptop.nc": "numbers",
        "book/recorded/verdicts.json": "[]",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def stale(project: Path, chosen: list[pages.Page], change: str) -> set[str]:
    """Names of the pages that a change to one file of the project makes stale."""
    before = {page.name: pages.file_digests(page, project) for page in chosen}
    path = project / change
    path.write_text(path.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    return {
        page.name for page in chosen if pages.changes(before[page.name], pages.file_digests(page, project))
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("theory/waves.py", {"direct", "told"}),
        ("theory/helpers.py", {"direct", "told"}),  # reached through theory.waves
        ("theory/rivers.py", {"other"}),
        ("theory/__init__.py", {"direct", "told", "other"}),  # importing a module runs its package
        ("sims/experiments/ripples.py", {"told"}),
        ("sims/runner.py", set()),  # nothing on these pages reaches it
        ("book/recorded/ripples-laptop.nc", {"told"}),
        ("book/recorded/verdicts.json", {"linked"}),
    ],
)
def test_a_change_makes_stale_exactly_the_pages_that_reach_it(
    project: Path, change: str, expected: set[str]
) -> None:
    book = project / "book"
    chosen = [
        write_page(book, "direct", cell("from theory.waves import double")),
        write_page(book, "other", cell("def late():", "    from theory import rivers", "    return rivers")),
        write_page(book, "told", cell("import sims", 'sims.run("ripples").figure("crest")')),
        write_page(book, "linked", "See {ref}`A1 <claim-a1>`.", cell("1 + 1")),
    ]
    assert stale(project, chosen, change) == expected


def test_changes_gives_reasons(project: Path) -> None:
    page = write_page(project / "book", "direct", cell("from theory.waves import double"))
    before = pages.file_digests(page, project)
    assert pages.changes(before, before) == []
    assert pages.changes(None, before) == ["it was never executed here"]
    after = {
        **{name: digest for name, digest in before.items() if name != "theory/helpers.py"},
        "theory/new.py": "1",
    }
    assert pages.changes(before, after) == ["theory/new.py is new to it", "theory/helpers.py is gone"]


FIGURES = {"ripples": {"crest", "trough"}, "rivers": {"delta"}}


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        (cell('sims.run("riples")'), "names the experiment 'riples'; it must be one of: ripples, rivers."),
        (
            cell('sims.run("ripples", scale="huge")'),
            "names the scale of 'ripples' 'huge'; it must be one of: ",
        ),
        (cell('sims.run("ripples", "huge")'), "names the scale of 'ripples' 'huge'; it must be one of: "),
        (
            cell('sims.run("ripples").figure("delta")'),
            "names the figure 'delta'; it must be one of: crest, trough.",
        ),
        (
            cell('o = sims.run("ripples")', 'o.claim("Z9")'),
            "names the claim 'Z9'; it must be one of: A1, C0.3.",
        ),
        ("Look at {ref}`claim-a2`.", "names the claim 'A2'; it must be one of: A1, C0.3."),
        ("Data: `recorded/lost.nc`.", "names the record book/recorded/lost.nc, which is not there."),
        (cell('sims.run("mine.py")'), "names the experiment file 'mine.py', which is not there."),
    ],
)
def test_unknown_names_are_refused_in_one_sentence(tmp_path: Path, block: str, sentence: str) -> None:
    page = write_page(tmp_path, "chapter", block)
    (problem,) = pages.wrong_names([page], FIGURES, {"A1", "C0.3"})
    assert problem.startswith(f"chapter.md {sentence}")


def test_known_names_pass(tmp_path: Path) -> None:
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "ripples-paper.nc").touch()
    page = write_page(
        tmp_path,
        "chapter",
        cell(
            "import sims", "%matplotlib inline", 'out = sims.run("ripples", "paper")', 'out.figure("crest")'
        ),
        cell("%%writefile mine.py", "LENGTH = 1"),
        cell('sims.run("mine.py", scale="smoke").figure("anything of its own")', 'out.claim("A1")'),
        "See [](#claim-c0.3), and `recorded/ripples-paper.nc`. Not ours: `subprocess.run`.",
        cell('subprocess.run("ls")'),
    )
    assert pages.wrong_names([page], FIGURES, {"A1", "C0.3"}) == []


def test_a_cell_that_is_not_python_is_refused(tmp_path: Path) -> None:
    page = write_page(tmp_path, "chapter", cell("x = = 2"))
    with pytest.raises(pages.PageError, match=r"chapter\.md: a cell is not Python"):
        _ = page.names


def test_a_page_missing_from_disk_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: generated/claims\n")
    with pytest.raises(pages.PageError, match=r"_toc\.yml names 'intro'"):
        pages.pages_of(tmp_path)


def test_an_unknown_chapter_is_refused(tmp_path: Path) -> None:
    page = write_page(tmp_path, "chapter", cell("1 + 1"))
    prose = tmp_path / "prose.md"
    prose.write_text("# Prose\n")
    assert build.choose([page], "chapter.md") == page
    assert build.choose([page], None) is None
    with pytest.raises(pages.PageError, match="The chapter is 'prose'; it must be one of: chapter"):
        build.choose([page, pages.Page("prose", prose)], "prose")


@pytest.fixture
def empty_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The build works in a folder of this test."""
    monkeypatch.setattr(build, "BOOK", tmp_path)
    monkeypatch.setattr(build, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(build, "DIGESTS", tmp_path / "_build" / "page_digests.json")
    monkeypatch.setattr(build, "HTML", tmp_path / "_build" / "html")
    return tmp_path


def test_only_stale_pages_run_again(
    empty_build: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cold, then warm, after a changed module, after changed cells, when asked for, and after changed prose."""
    first = write_page(empty_build, "first", cell("from theory.symbols import table"))
    second = write_page(empty_build, "second", cell("1 + 1"))
    runs: list[list[str]] = []

    async def pretend(waiting: list[pages.Page], keep: Callable[[pages.Page, float], None]) -> list[str]:
        runs.append(sorted(page.name for page in waiting))
        for page in waiting:
            keep(page, 1.5)
        return []

    monkeypatch.setattr(build, "execute", pretend)
    digests = {"first": {"theory/symbols.py": "old"}, "second": {}}
    monkeypatch.setattr(build, "file_digests", lambda page: dict(digests[page.name]))
    doctree = empty_build / "_build" / ".doctrees" / "first.doctree"

    both = [first, second]
    assert build.run_stale_pages(both, None, False) == {"first": 1.5, "second": 1.5}
    doctree.parent.mkdir(parents=True)
    doctree.touch()
    build.run_stale_pages(both, None, False)
    assert doctree.exists()
    digests["first"]["theory/symbols.py"] = "new"
    capsys.readouterr()
    build.run_stale_pages(both, second, False)  # a chapter was asked for: the stale one waits
    assert "left alone  first, though theory/symbols.py changed" in capsys.readouterr().out
    build.run_stale_pages(both, None, False)
    assert "stale       first: theory/symbols.py changed" in capsys.readouterr().out
    assert not doctree.exists()  # or Sphinx would show the page as it was
    second = write_page(empty_build, "second", cell("1 + 2"))
    build.run_stale_pages([first, second], None, False)
    first = write_page(empty_build, "first", cell("from theory.symbols import table"), "More prose.")
    build.run_stale_pages([first, second], None, False)
    assert runs == [["first", "second"], [], ["second"], ["first"], ["second"], []]
    assert json.loads(build.DIGESTS.read_text())["first"] == {"theory/symbols.py": "new"}


def test_pages_with_the_same_cells_both_run(empty_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share one cached run, so what makes one stale takes the other's run away too."""
    twins = [write_page(empty_build, name, cell("1 + 1")) for name in ("one", "two")]
    runs: list[set[str]] = []

    async def pretend(waiting: list[pages.Page], keep: Callable[[pages.Page, float], None]) -> list[str]:
        runs.append({page.name for page in waiting})
        for page in waiting:
            keep(page, 1.0)
        return []

    monkeypatch.setattr(build, "execute", pretend)
    monkeypatch.setattr(build, "file_digests", lambda _page: {})
    build.run_stale_pages(twins, None, False)
    build.run_stale_pages(twins, twins[0], True)
    assert runs == [{"one", "two"}, {"one", "two"}]


def test_pages_really_run_and_a_failing_one_stops_the_build(
    empty_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("IPYTHONDIR", str(empty_build / "ipython"))
    good = write_page(empty_build, "good", cell("print(6 * 7)"))
    bad = write_page(empty_build, "bad", cell("raise ValueError('width is −1; it must be at least 1.')"))
    with pytest.raises(pages.PageError, match=r"book/bad\.md failed: ValueError: width is −1"):
        build.run_stale_pages([good, bad], None, False)
    assert list(json.loads(build.DIGESTS.read_text())) == ["good"]  # what succeeded is kept
    (empty_build / "bad.md").unlink()

    async def nothing_waits(
        waiting: list[pages.Page], _keep: Callable[[pages.Page, float], None]
    ) -> list[str]:
        assert waiting == []  # the run was found again
        return []

    monkeypatch.setattr(build, "execute", nothing_waits)
    assert set(build.run_stale_pages([pages.Page("good", good.path)], None, False)) == {"good"}


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://cdn.example/x.js">',
        '<link rel="stylesheet" href="//cdn.example/x.css">',
        '<img alt="" src="http://cdn.example/x.png">',
    ],
)
def test_a_page_that_needs_the_network_is_refused(empty_build: Path, tag: str) -> None:
    page = write_page(empty_build, "chapter", "Prose.")
    html = empty_build / "_build" / "html"
    html.mkdir(parents=True)
    (html / "chapter.html").write_text('<a href="https://arxiv.org">fine</a><script src="_static/x.js">')
    build.check_pages([page])
    (html / "other.html").write_text(tag)
    with pytest.raises(pages.PageError, match=r"other\.html loads a file from the network"):
        build.check_pages([page])


def test_a_page_without_result_or_download_is_refused(empty_build: Path) -> None:
    page = write_page(empty_build, "chapter", cell("1 + 1"))
    html = empty_build / "_build" / "html"
    html.mkdir(parents=True)
    with pytest.raises(pages.PageError, match="gave no page"):
        build.check_pages([page])
    (html / "chapter.html").touch()
    with pytest.raises(pages.PageError, match="no executed notebook to download"):
        build.check_pages([page])


ROW = {
    "id": "C0.3",
    "paper": "ours",
    "statement": "Either a | b, or $\\alpha$.",
    "measured": -0.25,
    "interval": [-0.5, 0.0],
    "predicted": None,
    "verdict": "not_measured",
    "experiment": "ripples",
    "scale": "",
}


def test_claims_page_shows_every_claim_with_its_label() -> None:
    refuted = {**ROW, "id": "A1", "verdict": "fails", "scale": "paper", "paper": "arXiv 2406.03068, extended"}
    text = generated_pages.claims_page([ROW, refuted], [])
    assert (
        "Of 2 claims: 1 [fails]{.verdict .verdict-fails}, 1 [not measured]{.verdict .verdict-not-measured}."
        in text
    )
    assert "(claim-c0.3)=\n## C0.3" in text
    assert "(claim-a1)=\n## A1" in text
    assert "| Either a \\| b, or $\\alpha$. | −0.25 | – |" in text
    assert "`python -m sims run ripples --scale paper`" in text
    assert ":Claimed by: {cite:t}`chen2025distributional`, extended\n" in text
    assert ":Claimed by: this book\n" in text


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (math.nan, "–"), (1e-9, "1e−09"), (2 / 3, "0.6667")]
)
def test_numbers_of_the_claims_page(value: float | None, shown: str) -> None:
    assert generated_pages.number(value) == shown


def test_every_verdict_has_a_word_and_a_style() -> None:
    assert set(generated_pages.WORDS) == set(generated_pages.VERDICTS)
    style = (pages.BOOK / "_static" / "book.css").read_text(encoding="utf-8")
    for verdict in generated_pages.VERDICTS:
        assert f".verdict-{verdict.replace('_', '-')} " in style


def test_generated_pages_are_written_only_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [ROW]
    monkeypatch.setattr(generated_pages, "ledger", lambda: rows)
    assert generated_pages.write_generated_pages([], [], tmp_path) == ["generated/claims", "generated/curves"]
    assert generated_pages.write_generated_pages([], [], tmp_path) == []
    rows.append({**ROW, "id": "A1"})
    assert generated_pages.write_generated_pages([], [], tmp_path) == ["generated/claims"]
    shutil.rmtree(tmp_path / "generated")


def test_the_ledger_is_computed_again_only_when_something_it_rests_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def compute() -> list[object]:
        calls.append(1)
        return []

    monkeypatch.setattr(generated_pages.claims, "ledger", compute)
    monkeypatch.setenv("RECALL_AND_REASON_RESULTS", str(tmp_path / "store"))
    kept = tmp_path / "ledger.json"
    assert generated_pages.ledger(kept) == []
    assert generated_pages.ledger(kept) == []
    assert len(calls) == 1
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "run.nc").touch()
    generated_pages.ledger(kept)
    assert len(calls) == 2
    code = tmp_path / "theory"
    code.mkdir()
    (code / "waves.py").write_text("LENGTH = 1")
    (tmp_path / "book" / "recorded").mkdir(parents=True)
    monkeypatch.setattr(generated_pages, "ROOT", tmp_path)
    monkeypatch.setattr(generated_pages, "BOOK", tmp_path / "book")
    generated_pages.ledger(kept)
    (code / "waves.py").write_text("LENGTH = 2")
    generated_pages.ledger(kept)
    generated_pages.ledger(kept)
    assert len(calls) == 4
