"""The pages as they are written: front matter, captions, alternative texts, and a place in the table of contents."""

import re

import pages
import pytest

PAGES = pages.pages_of()
WITH_CELLS = [page for page in PAGES if page.has_cells]


def names(chosen: list[pages.Page]) -> list[str]:
    return [page.name for page in chosen]


def test_every_page_is_in_the_table_of_contents() -> None:
    on_disk = {path.stem for path in pages.BOOK.glob("*.md")}
    assert on_disk - {"README"} == {page.name for page in PAGES}


@pytest.mark.parametrize("page", WITH_CELLS, ids=names(WITH_CELLS))
def test_pages_with_cells_are_run(page: pages.Page) -> None:
    """Without this front matter Jupyter Book shows the cells and does not run them."""
    assert page.front_matter["jupytext"]["text_representation"]["format_name"] == "myst"
    assert page.front_matter["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_pages_have_one_title(page: pages.Page) -> None:
    prose = re.sub(r"^(`{3,})[^`].*?^\1", "", page.text, flags=re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^# \S", prose, flags=re.MULTILINE)) == 1


def test_some_page_is_run() -> None:
    assert WITH_CELLS


def figure_faults(page: pages.Page) -> list[str]:
    """Cells that draw without a caption that says what to see and a text for those who cannot see it."""
    faults = []
    for number, cell in enumerate(page.cells):
        settings = cell.metadata.get("mystnb", {})
        draws = re.search(r"\.figure\(|plt\.(show|subplots|figure)\(|\.plot\(", cell.source)
        if draws is None or "remove-output" in cell.metadata.get("tags", []):
            continue
        if len(settings.get("figure", {}).get("caption", "").split()) < 8:
            faults.append(
                f"{page.path.name}, code cell {number}: a caption of at least eight words is missing"
            )
        if len(settings.get("image", {}).get("alt", "").split()) < 5:
            faults.append(
                f"{page.path.name}, code cell {number}: mystnb: image: alt of at least five words is missing"
            )
    for match in re.finditer(
        r"^[`:]{3,}\{(figure|image)\}[^\n]*\n(.*?)^[`:]{3,}", page.text, re.MULTILINE | re.DOTALL
    ):
        if not re.search(r"^:alt: \S", match.group(2), re.MULTILINE):
            faults.append(f"{page.path.name}: a {match.group(1)} has no alt text")
    faults += [f"{page.path.name}: an image has no alt text" for _ in re.findall(r"!\[\s*\]\(", page.text)]
    return faults


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_figure_has_caption_and_alt_text(page: pages.Page) -> None:
    assert figure_faults(page) == []


def test_the_figure_check_can_fail(tmp_path: pages.Path) -> None:
    bare = '```{code-cell} ipython3\nsims.run("x").figure("y")\n```\n'
    told = (
        "```{code-cell} ipython3\n---\nmystnb:\n  figure:\n    caption: The line runs through every point until the flow ends.\n"
        "  image:\n    alt: A rising line with points on it\n---\n"
        'sims.run("x").figure("y")\n```\n'
    )
    for text, faults in ((bare, 2), (told, 0), ("![](a.png)\n", 1), ("```{figure} a.png\nCaption\n```\n", 1)):
        (tmp_path / "page.md").write_text(f"# Title\n\n{text}", encoding="utf-8")
        assert len(figure_faults(pages.Page("page", tmp_path / "page.md"))) == faults


def test_no_number_is_typed_where_a_verdict_belongs() -> None:
    """Verdicts are printed from the ledger; a hand-written badge may only explain what the words mean."""
    with_badges = {page.name for page in PAGES if "{.verdict" in page.text}
    assert with_badges <= {"intro"}
