"""The structure of the package: contracts, no circles, sizes, READMEs, axes of shapes."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest

from tests.helpers.sources import PACKAGE, trees
from tools.count_lines import arguments, function_lines

ROOT = Path(__file__).parents[1]
ROOTS = sorted(path for path in PACKAGE.iterdir() if path.suffix == ".py" and path.stem[0] != "_")
PACKAGES = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
BIG = [
    path.name
    for path in PACKAGES
    if sum(len(file.read_text("utf-8").splitlines()) for file in path.rglob("*.py")) > 2_000
]
ABOVE = {"clipkit.cli", "clipkit.training", "clipkit.tuning"}
"""Packages that may import Lightning."""
ARRAYS = re.compile(r"^(Float|Int|UInt|Bool)\d*$")
LEGEND = set("BNDSCHW")
NAMING = {".py", ".pyi", ".html", ".js"}
FOR_ANY_MODALITY = (
    "training", "losses", "metrics", "optim", "distributed", "runs", "tuning",
    "data/order", "data/device", "types",
)  # fmt: skip
FURTHER_MODALITY = {
    "sound", "sounds", "audio", "mel", "spectrogram", "spectrograms", "wave", "waveform", "speech",
    "sensor", "sensors", "video", "thermal",
}  # fmt: skip


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


@pytest.fixture(scope="module")
def graph() -> Any:
    return grimp.build_graph("clipkit")


def contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return settings["tool"]["importlinter"]["contracts"]


def test_the_order_inside_each_package_is_a_contract():
    ordered = {
        container
        for contract in contracts()
        if contract["type"] == "layers" and contract.get("exhaustive")
        for container in contract.get("containers", ())
    }
    assert {f"clipkit.{path.name}" for path in PACKAGES} - ordered == set()


def test_all_packages_below_training_are_kept_free_of_lightning():
    names = {f"clipkit.{path.stem}" for path in [*PACKAGES, *ROOTS]}
    allowed = {"lightning": ABOVE, "webdataset": {"clipkit.data"}}
    for contract in contracts():
        if contract["type"] == "forbidden":
            free = names - allowed[contract["forbidden_modules"][0]]
            assert free - set(contract["source_modules"]) == set(), contract["name"]


def test_no_module_imports_itself_over_others(graph):
    """Imports inside functions and for type checkers count as well."""
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


@pytest.mark.parametrize("name", BIG)
def test_readme_says_what_comes_in_and_who_imports_the_package(name, graph):
    text = (PACKAGE / name / "README.md").read_text()
    assert [word for word in ("In:", "Out:", "May import:") if word not in text] == []
    importers = graph.find_modules_that_directly_import(f"clipkit.{name}") | {
        importer
        for module in graph.find_descendants(f"clipkit.{name}")
        for importer in graph.find_modules_that_directly_import(module)
    }
    packages = {importer.split(".")[1] for importer in importers} - {name}
    (listed,) = re.findall(r"Imported by: ([\w,\s]+)\.", text)
    assert set(listed.split(", ")) - {"nothing"} == packages


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    for path, tree in trees().items():
        text = path.read_text("utf-8")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node, text


def test_functions_fit_on_a_screen():
    """Lines without docstring and blank ones; ``self`` is no argument of a constructor."""
    for path, node, text in functions():
        place = f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        assert function_lines(node, text) <= 40, place
        assert node.name != "__init__" or arguments(node) <= 12, place


def test_files_have_one_job():
    """The house aims at 300 lines; a file that outgrows this limit has a seam to be split at."""
    long = {
        str(path.relative_to(ROOT)): num_lines
        for path in trees()
        if (num_lines := path.read_text("utf-8").count("\n")) > 330
    }
    assert long == {}


def test_nothing_is_defined_that_nothing_names():
    """A function, class or constant of a module is named again, in the package or by a page."""
    texts = [path.read_text("utf-8") for path in PACKAGE.rglob("*") if path.suffix in NAMING]
    counts = Counter(word for text in texts for word in re.findall(r"\w+", text))
    unused = [
        (str(path.relative_to(ROOT)), name)
        for path, tree in trees().items()
        for node in tree.body
        for name in defined(node)
        if counts[name] == 1
    ]
    assert unused == []


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines; a decorator may use a function."""
    if isinstance(node, ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [] if node.decorator_list else [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    return [target.id for target in targets if isinstance(target, ast.Name)]


def axes(tree: ast.AST) -> Iterator[str]:
    """The axes of all arrays in annotations."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ARRAYS.match(getattr(node.value, "id", "")):
            for part in ast.walk(node.slice):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield from part.value.split()


def test_letters_of_axes_are_those_of_the_legend():
    wrong = [
        (str(path.relative_to(PACKAGE)), axis)
        for path, tree in trees().items()
        for axis in axes(tree)
        if len(axis) == 1 and axis.isalpha() and axis not in LEGEND
    ]
    assert wrong == []
