"""The package uses the words of the field; docs/contributing/style.md lists those it does not."""

from __future__ import annotations

import re

from tests.helpers.sources import PACKAGE
from tests.helpers.words import UNUSED

SUFFIXES = {".py", ".pyi", ".md", ".html", ".js"}
# Names in double backticks and texts without a space, such as keys and suffixes, are no prose.
NAMES = re.compile(r"``[^`]*``|\"[^\" ]*\"")


def test_the_package_uses_the_words_of_the_field() -> None:
    """Docstrings, comments, messages and local names."""
    files = [path for path in sorted(PACKAGE.rglob("*")) if path.suffix in SUFFIXES]
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNUSED.search(NAMES.sub("", line))
    ]
    assert len(files) > 500
    assert found == []
