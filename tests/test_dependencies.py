"""Every dependency is used."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

import clipkit

ROOT = Path(__file__).parents[1]


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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {Requirement(line).name.replace("_", "-").lower() for line in project["dependencies"]}
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
