"""Every dependency is used."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import clipkit
from tools import lowest_versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REQUIRED = list(lowest_versions.requirements(PROJECT))


def imported_modules() -> set[str]:
    names: set[str] = set()
    for path in Path(clipkit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return names


def test_every_dependency_is_imported_or_named_in_a_configuration() -> None:
    wanted = {Requirement(line).name.replace("_", "-").lower() for line in PROJECT["dependencies"]}
    modules = imported_modules()
    used = {
        distribution.replace("_", "-").lower()
        for module, distributions in packages_distributions().items()
        for distribution in distributions
        if module in modules
    }
    configs = "".join(path.read_text("utf-8") for path in (ROOT / "configs").rglob("*.yaml"))
    class_paths = " ".join(re.findall(r"class_path: ([\w.]+)", configs)).lower()
    assert [name for name in sorted(wanted - used) if name not in class_paths] == []


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
