"""The scripts of the book are no package: they are imported from their folder, as `python book/build.py` does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "book"))

try:
    import pages  # noqa: F401
except ModuleNotFoundError as error:  # the book's libraries are an extra of the installation
    collect_ignore = ["test_build.py", "test_pages.py"]
    sys.stderr.write(f"tests/book: {error.name} is missing; install the extra 'book' to test the pages.\n")
