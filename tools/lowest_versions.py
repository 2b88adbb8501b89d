"""Print the lowest versions that pyproject.toml allows, as constraints for pip.

Usage: python tools/lowest_versions.py [NAME==VERSION ...]

A version that is named replaces the lowest one, for a package whose lowest version is not to be
had. Requirements whose marker excludes this Python are left out.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("test", "docs")
"""Extras of development: their newest versions run the tests."""


def requirements(project: dict) -> Iterator[Requirement]:
    """Yield what the package and its extras for users require on this Python."""
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], *(extras[name] for name in extras if name not in TOOLS)]
    for line in (line for lines in lists for line in lines):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def lowest(requirement: Requirement) -> str:
    """Return the version after ``>=``."""
    floors = [part.version for part in requirement.specifier if part.operator == ">="]
    if len(floors) != 1:
        raise SystemExit(f"pyproject.toml: expected one >= in {requirement}, got {len(floors)}")
    return floors[0]


def constraints(project: dict, replaced: Sequence[str] = ()) -> list[str]:
    """Return one ``NAME==VERSION`` for each requirement."""
    versions: dict[str, str] = {}
    for one in requirements(project):  # an extra may want more than the package, which is tested
        versions.setdefault(canonicalize_name(one.name), lowest(one))
    for word in replaced:
        name, equals, version = word.partition("==")
        if not equals or canonicalize_name(name) not in versions:
            raise SystemExit(f"expected NAME==VERSION with a name of pyproject.toml, got {word}")
        versions[canonicalize_name(name)] = version
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


if __name__ == "__main__":
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    print("\n".join(constraints(content["project"], sys.argv[1:])))
