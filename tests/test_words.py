"""The package uses the words of the field; docs/contributing/style.md lists those it does not."""

import re
from pathlib import Path

import pytest

import clipkit
from tests.helpers.words import UNUSED

PACKAGE = Path(clipkit.__file__).parent
SUFFIXES = {".py", ".pyi", ".md", ".html", ".js"}
FILES = [path for path in sorted(PACKAGE.rglob("*")) if path.suffix in SUFFIXES]
# Names in double backticks and texts without a space, such as keys and suffixes, are no prose.
NAMES = re.compile(r"``[^`]*``|\"[^\" ]*\"")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_uses_the_words_of_the_field(path: Path) -> None:
    """Docstrings, comments, messages and local names."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if UNUSED.search(NAMES.sub("", line))] == []
