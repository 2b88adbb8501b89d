"""Number the classes of a table; numbers in the table are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Self, final

from clipkit.class_names import number_of
from clipkit.data.packing.classes import Classes
from clipkit.data.packing.labels import RowClass, listed_names
from clipkit.errors import DataError

MOST_CLASSES: Final = 2**20
"""Largest number of classes with names or with a head, which have an entry per number."""


@final
class ClassNumbers:
    """Numbers and names of a table's classes.

    Class names define the numbers, if specified. Otherwise, numbers next to names are kept; without
    numbers, names are numbered in alphabetical order.

    Args:
        names: Name of each class by its number, empty for a number without a name.
        where: Name of the table in messages.
        are_given: Whether the numbers are in the table.

    Attributes:
        names: Name of each class by its number.
        are_given: Whether the numbers are in the table, not derived from the names.
    """

    def __init__(self, names: Sequence[str], where: str, are_given: bool = False) -> None:
        self.names = tuple(names)
        self.are_given = are_given
        self._where = where
        counts = Counter(names)
        self._by_name = {name: number for number, name in enumerate(names) if counts[name] == 1}

    @classmethod
    def of(
        cls,
        where: str,
        rows: Sequence[RowClass],
        lists: Sequence[Classes],
        class_names: Sequence[str] | None,
    ) -> Self:
        """Assign numbers to the classes of a table."""
        words = dict.fromkeys([row.name for row in rows if row.name], None)
        words |= dict.fromkeys(listed_names(lists), None)
        if class_names:
            return cls(class_names, where)
        if not words:
            return cls((), where, are_given=True)
        given = _named_numbers(rows, where)
        used = {row.number for row in rows if row.number is not None}
        used |= {item for some in lists for item in some if isinstance(item, int)}
        if not used:
            return cls(sorted(words), where)
        if not given:
            raise DataError(
                f"{where}: some images have the number of a class ({min(used)}), others the name "
                f"({next(iter(words))!r}); write number and name of each class in one row"
            )
        if max(used) >= MOST_CLASSES:
            raise DataError(
                f"{where}: class number {max(used)}: expected less than {MOST_CLASSES} where "
                f"classes have names"
            )
        return cls([given.get(number, "") for number in range(max(used) + 1)], where, True)

    def number(self, name: str, own: int | None = None) -> int:
        """Return the number of a name."""
        if name in self._by_name:
            return self._by_name[name]
        return number_of(name, self.names, own, self._where)

    def of_row(self, row: RowClass) -> int | None:
        """Return the number of an image's class; None if it has none."""
        if row.name is None:
            return None if row.number is None else self._within(row.number)
        return self.number(row.name, row.number)

    def of_list(self, classes: Classes) -> list[int]:
        """Return the numbers of the classes, each once, in order."""
        return sorted(
            {self._within(c) if isinstance(c, int) else self.number(c, None) for c in classes}
        )

    def caption(self, numbers: Sequence[int]) -> str:
        """Join the names of classes with commas; empty if one has no name."""
        names = [self.names[n] if n < len(self.names) else "" for n in numbers]
        return ", ".join(names) if all(names) else ""

    def _within(self, number: int) -> int:
        if self.names and number >= len(self.names):
            raise DataError(
                f"{self._where}: class {number}: expected 0 to {len(self.names) - 1}, the numbers "
                f"of the known classes"
            )
        return number


def _named_numbers(rows: Sequence[RowClass], where: str) -> dict[int, str]:
    """Return the name of each number that has one next to it."""
    named: dict[int, RowClass] = {}
    for row in rows:
        if row.name is None or row.number is None:
            continue
        earlier = named.setdefault(row.number, row)
        if earlier.name != row.name:
            raise DataError(
                f"{where}: class {row.number} is {earlier.name!r} in row {earlier.row} and "
                f"{row.name!r} in row {row.row}; expected one name per number"
            )
    return {number: row.name or "" for number, row in named.items()}
