"""Find the folders of runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from clipkit.errors import DataError
from clipkit.runs.record import RECORD

_DEPTH: Final = 8
"""Number of folders below the root that are searched."""


def find_runs(roots: Sequence[Path | str]) -> list[Path]:
    """Find the folders of runs below some folders, in the order of their names.

    A run has ``run.json``, or ``config.yaml`` and ``metrics.csv``. Links are followed, each folder
    is visited once; hidden folders and those that may not be read are skipped.

    Args:
        roots: Folders to search, or folders of runs.

    Raises:
        DataError: If a root is not a folder.

    Examples:
        >>> Path("runs/first").mkdir(parents=True)
        >>> _ = Path("runs/first/run.json").write_text("{}")
        >>> find_runs(["runs"])
        [PosixPath('runs/first')]
    """
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    for root in map(Path, roots):
        if not root.is_dir():
            raise DataError(f"{root}: expected a folder of runs, found no such folder")
        found += _search(root, _DEPTH, seen)
    return found


def _search(folder: Path, depth: int, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            names, folders = set[str](), list[str]()
            for entry in entries:
                names.add(entry.name)
                if not entry.name.startswith(".") and not _is_file(entry):
                    folders.append(entry.name)
    except OSError:
        return
    if RECORD in names or {"config.yaml", "metrics.csv"} <= names:
        yield folder
    if depth:
        for name in sorted(folders):
            yield from _search(folder / name, depth - 1, seen)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return not entry.is_dir()
    except OSError:  # a link to itself
        return True
