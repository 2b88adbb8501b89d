"""The table of what users of other libraries expect names tests and parts that exist."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from pathlib import Path

import pytest

from clipkit.cli.main import build_parser
from tools.reference_pages import public_modules

ROOT = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| (?P<what>.+) \| (?P<where>.+) \| `(?P<test>tests/[^`]+)` \|$", re.MULTILINE)
ROWS = list(ROW.finditer((ROOT / "docs/expectations.md").read_text(encoding="utf-8")))
CODES = [code for row in ROWS for code in re.findall(r"`([^`]+)`", row["where"])]


def test_rows_are_complete_and_none_comes_twice() -> None:
    page = (ROOT / "docs/expectations.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    heads = sum(line.startswith("| expectation |") for line in lines)
    assert len(lines) - heads == len(ROWS) > 80
    assert len({row["what"] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("test", sorted({row["test"] for row in ROWS}))
def test_each_row_names_a_test_that_exists(test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.ClassDef
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    assert name.startswith(("test_", "Test"))


def test_classes_and_functions_are_public() -> None:
    public = {
        name for module in public_modules() for name in importlib.import_module(module).__all__
    }
    wanted = {code.partition("(")[0] for code in CODES if re.match(r"[A-Z]\w+|\w+\(|match_", code)}
    assert len(wanted) > 30
    assert sorted(wanted - public) == []


def test_commands_have_the_options() -> None:
    commands = [code.split() for code in CODES if code.startswith("clipkit ")]
    assert len(commands) > 20
    for _, *words in commands:
        parser = build_parser()
        while words and words[0] in (choices := subcommands(parser)):
            parser = choices[words.pop(0)]
        wrong = {w for w in words if w.startswith("--") and w not in parser._option_string_actions}
        assert (wrong, parser.prog == "clipkit") == (set(), False), words


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands below one, by name."""
    actions = parser._subparsers._group_actions if parser._subparsers else []
    return {name: one for action in actions for name, one in dict(action.choices or {}).items()}
