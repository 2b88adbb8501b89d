"""An index of runs, so that thousands of them are listed without reading all of their files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import new_file
from clipkit.errors import DataError
from clipkit.runs.record import RECORD, Best, RunRecord, read_run
from clipkit.runs.scan import find_runs

INDEX: Final = ".clipkit-runs.json"
"""Name of the index in the folder that is searched; it can be deleted at any time."""
_FORMAT: Final = "clipkit-runs-1"
_FILES: Final = (RECORD, "config.yaml", "metrics.csv")


def load_runs(roots: Sequence[Path | str]) -> list[RunRecord]:
    """Read the records of all runs below some folders.

    The index of each folder keeps what was read; a run is read again if one of its files has
    another size or time. The index is written if that is possible, and never needed.

    Args:
        roots: Folders to search, or folders of runs.

    Returns:
        Records in the order of the folders' names; those of running runs without a heartbeat have
        the state "killed".

    Raises:
        DataError: If a root is not a folder.

    Examples:
        >>> Path("runs/first").mkdir(parents=True)
        >>> write_run(RunRecord(Path("runs/first"), "finished", step=100))
        >>> [(run.name, run.state) for run in load_runs(["runs"])]
        [('first', 'finished')]
    """
    records: dict[Path, RunRecord] = {}
    for root in map(Path, roots):
        known = _read_index(root)
        entries: dict[str, Any] = {}
        for folder in find_runs([root]):
            name, stamp = os.path.relpath(folder, root), _stamp(folder)
            record = _from_entry(folder, known.get(name), stamp)
            if record is None:
                try:
                    record = read_run(folder)
                except DataError:  # it was removed, or has no complete file yet
                    continue
            records[folder.resolve()] = record
            entries[name] = {"stamp": stamp, "record": _to_json(record)}
        if entries != known:
            _write_index(root, entries)
    return [record.checked() for record in records.values()]


def _stamp(folder: Path) -> list[list[int]]:
    """Return size and time of the files that a record is read from; zeros for a missing one."""
    stamps = []
    for name in _FILES:
        try:
            status = (folder / name).stat()
            stamps.append([status.st_size, status.st_mtime_ns])
        except OSError:
            stamps.append([0, 0])
    if stamps[0][1]:  # only runs without a record are read from the log
        stamps[2] = [0, 0]
    return stamps


def _to_json(record: RunRecord) -> dict[str, Any]:
    content = asdict(record)
    del content["folder"]
    # Dates in YAML have no JSON; the text that people wrote is what they look for.
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain


def _from_entry(folder: Path, entry: Any, stamp: list[list[int]]) -> RunRecord | None:
    try:
        if entry["stamp"] != stamp:
            return None
        values = dict(entry["record"])
        best = values.pop("best")
        return RunRecord(folder, best=None if best is None else Best(**best), **values)
    except (KeyError, TypeError):
        return None


def _read_index(root: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((root / INDEX).read_bytes())
        runs = content["runs"]
        return runs if content["format"] == _FORMAT and isinstance(runs, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _write_index(root: Path, entries: Mapping[str, Any]) -> None:
    """Write the index; a folder that may not be written to has none."""
    text = json.dumps({"format": _FORMAT, "runs": entries}, separators=(",", ":"))
    with contextlib.suppress(OSError), new_file(root / INDEX, sync=False) as temporary:
        temporary.write_text(text, encoding="utf-8")
