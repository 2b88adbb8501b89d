"""Read several classes per image from the cells of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, final

from clipkit.data.packing.labels import ColumnKinds, Spellings, is_missing, whole_number
from clipkit.data.shards.members import LARGEST_LABEL
from clipkit.errors import DataError

CLASSES_COLUMNS: Final = ("labels", "classes")
SEPARATOR: Final = ";"

Classes = list[int] | list[str]


@final
class ClassLists:
    """Reads the lists of classes in the rows of a table.

    Args:
        where: Name of the table in messages.
        spellings: Spellings of the table's class names.
        kinds: Kinds of the table's columns.

    Examples:
        >>> lists = ClassLists("t.csv", Spellings("t.csv"), ColumnKinds("t.csv"))
        >>> lists.read({"image": "1.jpg", "labels": "dog; old_horse"}, 1)
        ['dog', 'old horse']
    """

    def __init__(self, where: str, spellings: Spellings, kinds: ColumnKinds) -> None:
        self._where = where
        self._spellings = spellings
        self._kinds = kinds

    def read(self, row: Mapping[str, Any], at: int) -> Classes | None:
        """Return the classes of a row: a list (Parquet, JSON), or a text with semicolons."""
        filled = [name for name in CLASSES_COLUMNS if not is_missing(row.get(name))]
        if not filled:
            return None
        if len(filled) > 1:
            raise DataError(
                f"{self._where}: row {at} has classes in {' and '.join(filled)}; keep one column"
            )
        column, value = filled[0], row[filled[0]]
        items = _items(value)
        if items is not None and all(isinstance(item, str) and item.strip() for item in items):
            classes: Classes = [self._spellings.name(" ".join(item.split())) for item in items]
        elif items is not None and all(
            type(item) is int and 0 <= item <= LARGEST_LABEL for item in items
        ):
            classes = list(items)
        else:
            raise DataError(
                f"{self._where}: column {column}, row {at}: expected several classes, all names or "
                f"all numbers from 0, as a list, a JSON list, or a;b; got {value!r}"
            )
        for item in classes[:1]:
            self._kinds.check(column, value, isinstance(item, int), at)
        return classes


def _items(value: Any) -> list[Any] | None:
    """Return the cell as a list; None if it is not a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, str):
        value = [part.strip() for part in value.split(SEPARATOR) if part.strip()]
        if all(whole_number(part) is not None for part in value):
            value = [whole_number(part) for part in value]
    if isinstance(value, int | float) and not isinstance(value, bool):  # Parquet without lists
        value = [value]
    if not isinstance(value, list):
        return None
    return [whole_number(item) if isinstance(item, float) else item for item in value]
