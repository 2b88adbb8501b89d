"""Records of evaluations: the JSON files of ``clipkit evaluate``, and the outcomes next to them."""

from __future__ import annotations

from pathlib import Path


def outcomes_path(record: Path) -> Path:
    """Return the path of the outcomes of a record.

    Examples:
        >>> outcomes_path(Path("results/flowers.json")).as_posix()
        'results/flowers.outcomes.npz'
    """
    return record.with_name(f"{record.name.removesuffix('.json')}.outcomes.npz")
