"""The structure of the package: no circles, small folders, a README in each big package."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

PACKAGE = Path(__file__).parents[1] / "clipkit"
FOR_ANY_MODALITY = (
    "training", "losses", "metrics", "optim", "distributed", "runs", "tuning",
    "data/order", "data/device", "types.py",
)  # fmt: skip
FURTHER_MODALITY = {
    "sound", "sounds", "audio", "mel", "spectrogram", "spectrograms", "wave", "waveform", "speech",
    "sensor", "sensors", "video", "thermal",
}  # fmt: skip
BIG = ("cli", "data", "evaluation", "losses", "models", "training")


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for imported in imports[module]:
            if imported not in order:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in stack:
                lowest[module] = min(lowest[module], order[imported])
        if lowest[module] == order[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for module in imports:
        if module not in order:
            visit(module)
    return groups


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_no_module_imports_itself_over_others():
    """Imports inside functions and for type checkers count as well."""
    graph = grimp.build_graph("clipkit")
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert circles(imports) == []


def test_no_folder_has_twenty_files():
    counts = Counter(path.parent for path in PACKAGE.rglob("*.py"))
    assert {str(folder): n for folder, n in counts.items() if n >= 20} == {}


@pytest.mark.parametrize("name", BIG)
def test_readme_lists_the_folders(name):
    text = (PACKAGE / name / "README.md").read_text()
    folders = {path.parent.name for path in (PACKAGE / name).glob("*/__init__.py")}
    commands = name == "cli"  # one folder per command needs no list
    assert commands or {f for f in folders if f"`{f}`" not in text and f"{f}/" not in text} == set()


def words_in_code(source: str) -> Iterator[tuple[int, str]]:
    """Yield the words of names and texts with their lines; docstrings and comments are left out."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        values = [value for _, value in ast.iter_fields(node) if isinstance(value, str)]
        for text in () if id(node) in prose else values:
            for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text):
                yield getattr(node, "lineno", 0), word.lower()


def test_words_of_code_are_found():
    source = '"""A sound."""\nclass MelTower:\n    "mel"\n    of = {"sound_text": wave.size}\n'
    found = set(words_in_code(source))
    assert found == {(2, "mel"), (2, "tower"), *((4, w) for w in ("of", "sound", "text", "wave",
                                                                  "size"))}  # fmt: skip


@pytest.mark.parametrize("part", FOR_ANY_MODALITY)
def test_no_branch_on_a_further_modality(part):
    """A modality is a field of the data and a tower: trainer, losses and metrics name none."""
    place = PACKAGE / part
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    assert files
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {word}"
        for path in files
        for line, word in words_in_code(path.read_text(encoding="utf-8"))
        if word in FURTHER_MODALITY
    ]
    assert found == []
