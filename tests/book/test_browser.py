"""The built book in a real browser with the network off: mathematics is typeset, and there is one search box."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HTML = Path(__file__).resolve().parents[2] / "book" / "_build" / "html"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(
        not (HTML / "index.html").is_file(), reason="the book is not built; run make book first"
    ),
]


def shown(page: str, profile: Path) -> str:
    """The page's document after its scripts have run, opened from disk while no host name resolves."""
    assert BROWSER is not None
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=15000",
        "--dump-dom",
    ]
    command = [BROWSER, *options, (HTML / page).as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_mathematics_is_typeset_without_a_network(tmp_path: Path) -> None:
    document = shown("notation.html", tmp_path)
    source = (HTML / "notation.html").read_text(encoding="utf-8")
    formulas = len(re.findall(r'class="math notranslate', source))
    assert formulas > 5
    assert document.count("<mjx-container") == formulas
    assert "<mjx-merror" not in document


def test_one_search_box(tmp_path: Path) -> None:
    document = shown("intro.html", tmp_path)
    outside_dialog = re.sub(r"<dialog.*?</dialog>", "", document, flags=re.DOTALL)
    assert outside_dialog.count("search-button-field") == 1
    assert '<input type="search"' not in outside_dialog
