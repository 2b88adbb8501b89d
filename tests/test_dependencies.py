"""Every dependency is used."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.sources import trees
from tools import lowest_versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REQUIRED = list(lowest_versions.requirements(PROJECT))
EVERYTHING = {canonicalize_name(requirement.name) for requirement in REQUIRED}
NOT_IMPORTED = {
    "albumentations": "by the user, who gives its transforms",
    "gcsfs": "by fsspec, for gs://",
    "onnxscript": "by torch's exporter",
    "s3fs": "by fsspec, for s3://",
}
"""Who imports a package that clipkit itself does not import."""


def imported_modules() -> set[str]:
    names: set[str] = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Call) and any(
                "import" in part for part in names_in(node.func)
            ):
                names |= {str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)}
    return names


def names_in(function: ast.expr) -> list[str]:
    return [getattr(part, "id", getattr(part, "attr", "")) for part in ast.walk(function)]


@cache
def used_distributions() -> set[str]:
    """What the package imports, its functions included, or a shipped configuration names."""
    configs = "".join(path.read_text("utf-8") for path in (ROOT / "configs").rglob("*.yaml"))
    class_paths = " ".join(re.findall(r"class_path: ([\w.]+)", configs)).lower()
    modules = imported_modules()
    distributions = packages_distributions()
    imported = {name for module in modules for name in distributions.get(module, [module])}
    names = {canonicalize_name(name) for name in imported}
    return names | {name for name in EVERYTHING if name in class_paths}


def test_every_dependency_is_imported_or_named_in_a_configuration() -> None:
    wanted = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert wanted - used_distributions() == set()


def test_every_extra_is_used_or_needed_by_a_library() -> None:
    """An extra brings nothing that neither clipkit nor a library that it calls would import."""
    assert EVERYTHING - used_distributions() - NOT_IMPORTED.keys() == set()
    assert NOT_IMPORTED.keys() <= EVERYTHING
    assert not NOT_IMPORTED.keys() & used_distributions()


@pytest.mark.parametrize("requirement", REQUIRED, ids=str)
def test_the_lowest_version_is_allowed_and_lower_than_what_is_installed(
    requirement: Requirement,
) -> None:
    lowest = lowest_versions.lowest(requirement)
    assert requirement.specifier.contains(lowest)
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        pytest.skip("an extra that the tests do not need")
    assert requirement.specifier.contains(installed)


def test_constraints_name_each_package_once_and_versions_can_be_replaced() -> None:
    lines = lowest_versions.constraints(PROJECT)
    names = [line.partition("==")[0] for line in lines]
    assert len(names) == len(set(names)) >= 30
    replaced = lowest_versions.constraints(PROJECT, ["open_clip_torch==3.1.0"])
    assert set(replaced) - set(lines) == {"open-clip-torch==3.1.0"}
    for wrong in ("nosuch==1", "torch"):
        with pytest.raises(SystemExit, match="expected NAME==VERSION"):
            lowest_versions.constraints(PROJECT, [wrong])


def test_uploads_of_strangers_are_excluded() -> None:
    """Lightning 2.6.2 and 2.6.3 were not made by its authors."""
    (lightning,) = [one for one in REQUIRED if one.name == "lightning"]
    allowed = ["2.5.6", "2.6.0", "2.6.1", "2.6.2", "2.6.3", "2.6.6", "2.7.0"]
    assert list(lightning.specifier.filter(allowed)) == ["2.6.0", "2.6.1", "2.6.6"]


def test_each_lowest_version_has_its_reason() -> None:
    """In a comment on its line, or on the lines above."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    lines = text[text.index("dependencies = [") : text.index("docs = [")].splitlines()
    bare = [
        line.strip()
        for above, line in pairwise(lines)
        if ">=" in line and "#" not in line and "#" not in above and "numpy" not in line
    ]
    assert bare == []
