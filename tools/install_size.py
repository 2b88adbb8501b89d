"""Print how many packages and MiB clipkit installs, and what each extra adds.

Usage: python tools/install_size.py

Sizes are those of the files of this environment, without bytecode. Extras with a package that is
not installed are named as such.
"""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOOLS = {"test", "docs"}
MIB = 2**20


def closure(name: str, extras: frozenset[str], found: dict[str, Distribution]) -> None:
    """Add a distribution and all that it requires on this machine to ``found``."""
    todo, seen = [(canonicalize_name(name), extras)], set()
    while todo:
        key = todo.pop()
        if key in seen:
            continue
        seen.add(key)
        found[key[0]] = distribution(key[0])
        for line in found[key[0]].requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in (*key[1], "")):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))


def mib(names: set[str], found: dict[str, Distribution]) -> float:
    """Return the size of the files of distributions."""
    paths = {
        Path(str(file.locate()))
        for name in names
        for file in found[name].files or ()
        if file.suffix != ".pyc"
    }
    return sum(path.stat().st_size for path in paths if path.is_file()) / MIB


def main() -> None:
    base: dict[str, Distribution] = {}
    closure("clipkit", frozenset(), base)
    torch: dict[str, Distribution] = {}
    closure("torch", frozenset(), torch)
    closure("torchvision", frozenset(), torch)
    rest = set(base) - set(torch)
    print(f"torch and torchvision: {len(torch)} packages, {mib(set(torch), torch):,.0f} MiB")
    print(f"the other requirements: {len(rest)} packages, {mib(rest, base):,.0f} MiB")
    for extra in distribution("clipkit").metadata.get_all("Provides-Extra") or ():
        if extra in TOOLS:
            continue
        more: dict[str, Distribution] = {}
        try:
            closure("clipkit", frozenset({extra}), more)
        except PackageNotFoundError as error:
            print(f"[{extra}]: {error.name} is not installed")
            continue
        added = set(more) - set(base)
        print(f"[{extra}]: {len(added)} more packages, {mib(added, more):,.0f} MiB")


if __name__ == "__main__":
    main()
