"""Build the book: run the pages that are stale, and only those, then let Jupyter Book write it.

    python book/build.py                            what `make book` does
    python book/build.py --chapter NAME             run that page again whatever its state
    python book/build.py --chapter NAME --live      and compute what it would read from committed records

The cache of executed pages sees the text of the cells alone. So this script keeps, for every page, the
digests of the modules it imports and of the records it reads. A page with a changed digest loses its cached
run and its parsed form; the others keep theirs. Exit status: 0 built, 1 not, with the reason as the last
line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  (so that no page prints that it builds the font cache)
from generated_pages import write_generated_pages
from jupyter_cache import get_cache
from jupyter_cache.base import JupyterCacheAbstract
from jupyter_cache.cache.main import CacheBundleIn
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from pages import BOOK, ROOT, Page, PageError, changes, file_digests, pages_of, wrong_names
from traitlets.config import Config

from sims.contract import experiment, experiment_names

BUILD = BOOK / "_build"
HTML = BUILD / "html"
DIGESTS = BUILD / "page_digests.json"
SECONDS_A_PAGE = 300
PROCESSES = 2
KERNEL = Config({"KernelManager": {"transport_encryption": "auto"}})
EXTERNAL = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc="(?:https?:)?//[^"]+"|<link\b[^>]*\bhref="(?:https?:)?//[^"]+"""
)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Run the stale pages of the book and build it.")
    parser.add_argument(
        "--chapter", metavar="NAME", help="run this page again whatever its state, and no other stale page"
    )
    parser.add_argument(
        "--live", action="store_true", help="compute what pages would read from committed records"
    )
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="book-") as folder:
        prepare_environment(Path(folder), options.live)
        try:
            pages = pages_of()
            chosen = choose(pages, options.chapter)
            experiments = [experiment(name) for name in experiment_names()]
            figures = {one.name: set(one.figures) for one in experiments}
            claims = {claim.id for one in experiments for claim in one.claims}
            refuse(wrong_names(pages, figures, claims))
            seconds = run_stale_pages(pages, chosen, options.live)
            # After the pages, whose runs may be what a claim was waiting for.
            for name in write_generated_pages(experiments, pages):
                print(f"written     {name}")
            build_pages()
            check_pages(pages)
        except (ValueError, OSError) as error:
            print(error, file=sys.stderr)
            return 1
    report(seconds, time.perf_counter() - started)
    return 0


def prepare_environment(folder: Path, live: bool) -> None:
    """One thread a process, kernels of this environment alone, and no configuration of the user's."""
    os.environ.update(
        OMP_NUM_THREADS="1",
        OMP_WAIT_POLICY="PASSIVE",
        JUPYTER_PREFER_ENV_PATH="1",
        JUPYTER_RUNTIME_DIR=str(folder / "runtime"),
        IPYTHONDIR=str(folder / "ipython"),
        PYDEVD_DISABLE_FILE_VALIDATION="1",
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    )
    if live:
        os.environ["RECALL_AND_REASON_LIVE"] = "1"


def refuse(problems: list[str]) -> None:
    """PageError with all the problems, one a line, when there are any."""
    if problems:
        raise PageError("\n".join(problems))


def choose(pages: list[Page], chapter: str | None) -> Page | None:
    """The page called `chapter`; PageError when there is none with cells to run."""
    if chapter is None:
        return None
    name = chapter.removesuffix(".md")
    runnable = {page.name: page for page in pages if page.has_cells}
    if name not in runnable:
        raise PageError(
            f"The chapter is {chapter!r}; it must be one of: {', '.join(runnable) or 'none yet'}."
        )
    return runnable[name]


def run_stale_pages(pages: list[Page], chosen: Page | None, live: bool) -> dict[str, float]:
    """Forget the runs of stale pages, run what has no run; return the seconds of every page's last run."""
    cache = get_cache(str(BUILD / ".jupyter_cache"))
    digests: dict[str, dict[str, str]] = json.loads(DIGESTS.read_text()) if DIGESTS.is_file() else {}
    runnable = [page for page in pages if page.has_cells]
    now = {page.name: file_digests(page) for page in runnable}
    for page in runnable:
        reasons = changes(digests.get(page.name), now[page.name])
        run = cached_run(cache, page)
        if run is None:
            reasons = reasons or ["its cells changed"]
        elif chosen is None and reasons:
            cache.remove_cache(run)
        elif page == chosen:
            reasons = ["it was asked for" + (", live" if live else "")]
            cache.remove_cache(run)
        elif reasons:
            print(f"left alone  {page.name}, though {reasons[0]}")
            continue
        if reasons:
            more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
            print(f"stale       {page.name}: {'; '.join(reasons[:3])}{more}", flush=True)
    # Asked again, because two pages with the same cells share one cached run.
    waiting = [page for page in runnable if cached_run(cache, page) is None]
    for page in waiting:
        forget_parsed(page)

    def keep(page: Page, seconds: float) -> None:
        cache.add_nb_to_project(str(page.path), read_data={"name": "myst_nb_md", "type": "plugin"})
        bundle = CacheBundleIn(page.notebook, str(page.path), data={"execution_seconds": seconds})
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
        digests[page.name] = now[page.name]
        DIGESTS.write_text(json.dumps(digests, indent=1, sort_keys=True))
        print(f"executed    {page.name} in {seconds:.1f} s", flush=True)

    refuse(asyncio.run(execute(waiting, keep)))
    seconds = {}
    for page in runnable:
        run = cached_run(cache, page)
        if run is None:
            raise PageError(f"{page.path.name} has no run after execution; remove {BUILD} and build again.")
        seconds[page.name] = float(cache.get_cache_record(run).data["execution_seconds"])
    return seconds


def cached_run(cache: JupyterCacheAbstract, page: Page) -> int | None:
    """Key of the cached run of exactly these cells, or None."""
    try:
        return int(cache.match_cache_notebook(page.notebook).pk)
    except KeyError:
        return None


def forget_parsed(page: Page) -> None:
    """Make Sphinx read the page again: a missing doctree is an outdated one."""
    (BUILD / ".doctrees" / f"{page.name}.doctree").unlink(missing_ok=True)


async def execute(pages: list[Page], keep: Callable[[Page, float], None]) -> list[str]:
    """Run pages in place, two at a time, each in its own kernel; return why those failed that did.

    `keep(page, seconds)` is called as soon as a page is done, so that an interrupted build loses no finished run.
    """
    places = asyncio.Semaphore(PROCESSES)

    async def run(page: Page) -> str | None:
        async with places:
            where = {"metadata": {"path": str(BOOK)}}
            client = NotebookClient(
                page.notebook, timeout=SECONDS_A_PAGE, resources=where, record_timing=False, config=KERNEL
            )
            started = time.perf_counter()
            try:
                await client.async_execute()
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                return f"{error}\nbook/{page.name}.md failed: {last_line(str(error))}"
            keep(page, time.perf_counter() - started)
            return None

    return [reason for reason in await asyncio.gather(*map(run, pages)) if reason]


def last_line(text: str) -> str:
    """The last line that says something, without terminal colours."""
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"


def build_pages() -> None:
    """Run Jupyter Book with warnings as errors; after a failure forget what was parsed.

    Sphinx reports a warning when it parses a page and not again, so the next build would pass without being
    better.
    """
    script = Path(sys.executable).with_name("jupyter-book")
    command = [str(script), "build", "--quiet", "-n", "-W", "--keep-going", str(BOOK)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode != 0:
        print(done.stdout, end="")
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
        raise PageError(
            f"The build has warnings or errors, printed above (status {done.returncode}); each is an error here."
        )


def check_pages(pages: list[Page]) -> None:
    """PageError when a page is missing, needs the network, or has no download of its executed notebook."""
    for page in pages:
        if not (HTML / f"{page.name}.html").is_file():
            raise PageError(f"book/{page.name}.md gave no page.")
        if page.has_cells and not (HTML / "_sources" / f"{page.name}.ipynb").is_file():
            raise PageError(f"book/{page.name}.md has cells, but no executed notebook to download.")
    for path in HTML.rglob("*.html"):
        if path.is_relative_to(HTML / "_static"):
            continue
        found = EXTERNAL.search(path.read_text(encoding="utf-8"))
        if found:
            raise PageError(f"{path.relative_to(HTML)} loads a file from the network: {found.group()}")


def report(seconds: dict[str, float], total: float) -> None:
    """Print the table of run times and how to open the book."""
    width = max((len(name) for name in seconds), default=4)
    print("\nRun times of the pages, in seconds")
    for name, value in seconds.items():
        print(f"  {name:<{width}}  {value:6.1f}")
    print(f"  {'all pages':<{width}}  {sum(seconds.values()):6.1f}   (this build took {total:.0f} s)")
    index = HTML / "index.html"
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    print(
        f"\nThe book is {index}\nOpen it in a browser:  {opener} {index}\nor serve it:           make serve"
    )


if __name__ == "__main__":
    sys.exit(main())
