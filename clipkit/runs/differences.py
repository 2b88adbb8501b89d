"""What differs between runs: options, versions, data and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from clipkit.runs.record import RunRecord

_FOLDER: Final = "trainer.default_root_dir"
_ABSENT: Final = "–"


@dataclass(frozen=True, slots=True)
class RunDifference:
    """A value that differs between runs.

    Args:
        name: Name of the option, field or metric.
        values: Value of each run as text; "–" if a run has none.
    """

    name: str
    values: tuple[str, ...]


def compare_runs(runs: Sequence[RunRecord]) -> tuple[list[RunDifference], list[RunDifference]]:
    """Compare runs.

    Args:
        runs: Records of two or more runs.

    Returns:
        Options, versions and facts that differ, and all metrics.

    Examples:
        >>> runs = [RunRecord(Path(str(s)), "finished", config={"seed": s}) for s in (1, 2)]
        >>> compare_runs(runs)[0]
        [RunDifference(name='seed', values=('1', '2'))]
    """
    facts = [
        {"state": run.state, "steps": run.step, "ranks": run.world_size}
        | {"training data": run.data_fingerprint, "mask": run.mask_fingerprint or _ABSENT}
        | {name: value for name, value in run.config.items() if name != _FOLDER}
        | {f"version of {name}": version for name, version in run.versions.items()}
        for run in runs
    ]
    options = [row for row in _rows(facts, str) if len(set(row.values)) > 1]
    return options, _rows([run.metrics for run in runs], lambda value: f"{value:.5g}")


def short_names(runs: Sequence[RunRecord]) -> list[str]:
    """Return the shortest ends of the folders' paths that differ from one another.

    Examples:
        >>> short_names([RunRecord(Path(p), "finished") for p in ("runs/a/first", "runs/b/first")])
        ['a/first', 'b/first']
    """
    parts = [run.folder.absolute().parts for run in runs]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run.folder) for run in runs]


def _rows(columns: Sequence[Any], shown: Any) -> list[RunDifference]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [
        RunDifference(
            name, tuple(shown(column[name]) if name in column else _ABSENT for column in columns)
        )
        for name in names
    ]
