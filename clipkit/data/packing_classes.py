"""Several classes a picture, as the cells of a table tell them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from clipkit.errors import DataError

CLASSES_COLUMNS: Final = ("labels", "classes")
SEPARATOR: Final = ";"

Classes = list[int] | list[str]


def several_classes(path: Path, row: Mapping[str, Any]) -> Classes | None:
    """The classes of a row: a list (Parquet), a JSON list, or words or numbers between semicolons.

    Args:
        path: The table, for the message.
        row: A row of it.

    Returns:
        Numbers, or names with spaces for underscores; None where there is no such column or the
        cell is empty, which means that nobody knows. An empty list means that no class applies.

    Raises:
        DataError: If the cell holds something else.

    Example:
        >>> several_classes(Path("t.csv"), {"image": "1.jpg", "labels": "dog; old_horse"})
        ['dog', 'old horse']
    """
    column = next((name for name in CLASSES_COLUMNS if name in row), None)
    if column is None or row[column] is None or row[column] == "":
        return None
    items = _items(row[column])
    if items is not None and all(type(item) is int and item >= 0 for item in items):
        return list(items)
    if items is not None and all(isinstance(item, str) and item.strip() for item in items):
        return [" ".join(item.replace("_", " ").split()) for item in items]
    raise DataError(
        f"{path}: column {column}: expected several classes, all names or all numbers from 0, "
        f"as a list, a JSON list, or a;b; got {row[column]!r}"
    )


def numbered(classes: Classes, numbers: Mapping[str, int]) -> list[int]:
    """Each class once, as numbers in order."""
    return sorted({item if isinstance(item, int) else numbers[item] for item in classes})


def names_among(classes: Sequence[Classes]) -> list[str]:
    """All names, in order of appearance; numbers are left out."""
    return list(dict.fromkeys(item for some in classes for item in some if isinstance(item, str)))


def _items(value: Any) -> list[Any] | None:
    """The cell as a list; None where it is none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, str):
        value = [part.strip() for part in value.split(SEPARATOR) if part.strip()]
        if all(part.isdecimal() for part in value):
            value = [int(part) for part in value]
    if isinstance(value, int):  # a column of Parquet without lists
        value = [value]
    return value if isinstance(value, list) else None
