"""The command that prints the size of the package counts what it claims to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import count_lines

MODULE = '''"""A module."""

import os  # not a line of comments


# One comment.
class Thing:
    """A class."""

    def method(self, first, *, second=2, **rest):
        """Return nothing.

        >>> Thing().method(1)
        >>> download()  # doctest: +SKIP
        """
        # Another comment.
        first()

        return None
'''


def test_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a.py").write_text(MODULE)
    (tmp_path / "inner/b.py").write_text("\n")
    monkeypatch.setattr("sys.argv", ["count_lines.py", str(tmp_path)])

    count_lines.main()

    assert json.loads(capsys.readouterr().out) == {
        "files": 2,
        "lines": 13,
        "lines_of_comments_and_docstrings": 8,
        "comment_share": round(8 / 13, 3),
        "functions": 1,
        "function_lines_median": 4,
        "function_lines_max": [4, "inner/a.py:method"],
        "arguments_max": [3, "inner/a.py:method"],
        "constructor_arguments_max": 0,
        "largest_folder": [2, "inner"],
        "examples": 2,
        "examples_skipped": 1,
        "lines_by_package": {"inner": 13},
    }
