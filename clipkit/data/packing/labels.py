"""The class in a row of a table: a number, a name, or both, decided by the column."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, final

from clipkit.data.shards.members import LARGEST_LABEL
from clipkit.errors import DataError
from clipkit.types import IGNORE_LABEL

LABEL_COLUMNS: Final = ("label", "cls", "class_id", "class_index")
CLASS_NAME_COLUMNS: Final = ("class_name", "class")
_ALWAYS_WORDS: Final = "class_name"
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.0*)?")
"""Integers of spreadsheets and pandas: "10", and "10.0" in a column with gaps."""
Value = TypeVar("Value", int, str)


@dataclass(frozen=True, slots=True)
class RowClass:
    """Class in a row.

    Args:
        number: Number of the class; None if the row has none.
        name: Name of the class; None if the row has none.
        row: Number of the row, from 1, for messages.
    """

    number: int | None
    name: str | None
    row: int

    def joined(self, other: RowClass, where: str) -> RowClass:
        """Combine two rows of one image."""
        for own, its in ((self.number, other.number), (self.name, other.name)):
            if own is not None and its is not None and own != its:
                raise DataError(
                    f"{where}: class {own!r} in row {self.row} and {its!r} in row {other.row}; "
                    f"expected one class per image; several go into one cell of a column labels, "
                    f"as a;b"
                )
        number = other.number if self.number is None else self.number
        return RowClass(number, self.name or other.name, self.row)


def whole_number(value: Any) -> int | None:
    """Return the integer in a cell: 10, 10.0, "10" or "10.0"; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, int):
        return value
    text = str(value).strip()
    return int(text.partition(".")[0]) if _NUMBER.fullmatch(text) else None


def is_missing(value: Any) -> bool:
    """Return whether a cell is empty: nothing, blanks, or pandas' NaN."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


@final
class Spellings:
    """Class names with spaces for underscores; one name must not have two spellings.

    Args:
        where: Name of the source in messages.

    Examples:
        >>> Spellings("t.csv").name("red_panda")
        'red panda'
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._spelt: dict[str, str] = {}

    def name(self, text: str) -> str:
        """Return the class name of a text."""
        name = " ".join(text.replace("_", " ").split()) or text
        if (earlier := self._spelt.setdefault(name, text)) != text:
            raise DataError(
                f"{self._where}: {earlier!r} and {text!r} are both the class {name!r}, because "
                f"underscores count as spaces; use one spelling if they are one class, or rename "
                f"one of them if they are two"
            )
        return name


@final
class ColumnKinds:
    """Requires that a column contains either numbers or names, as its first cell does.

    Args:
        where: What messages call the table.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._first: dict[str, tuple[bool, Any, int]] = {}

    def check(self, column: str, value: Any, is_number: bool, row: int) -> None:
        """Check a cell."""
        was_number, earlier, at = self._first.setdefault(column, (is_number, value, row))
        if was_number != is_number:
            raise DataError(
                f"{self._where}: column {column}: numbers and names mixed: {earlier!r} in row "
                f"{at}, {value!r} in row {row}; expected numbers of classes or names of classes; "
                f"names that look like numbers go into a column class_name"
            )


@final
class RowClasses:
    """Reads the class of every row of a table.

    Args:
        where: What messages call the table.
        spellings: Of the table's names.
        kinds: Of the table's columns.
    """

    def __init__(self, where: str, spellings: Spellings, kinds: ColumnKinds) -> None:
        self._where = where
        self._spellings = spellings
        self._kinds = kinds

    def read(self, row: Mapping[str, Any], at: int) -> RowClass:
        """Return the class of a row."""
        numbers: dict[str, int] = {}
        names: dict[str, str] = {}
        for column in (*LABEL_COLUMNS, *CLASS_NAME_COLUMNS):
            value = row.get(column)
            if is_missing(value):
                continue
            if isinstance(value, list | dict):
                raise DataError(
                    f"{self._where}: column {column}, row {at}: expected one class, got {value!r}; "
                    f"several classes go into a column labels"
                )
            number = None if column == _ALWAYS_WORDS else whole_number(value)
            self._kinds.check(column, value, number is not None, at)
            if number is None:
                names[column] = self._spellings.name(" ".join(str(value).split()))
            elif number != IGNORE_LABEL:
                numbers[column] = self._checked(number, column, at)
        return RowClass(self._single(numbers, at), self._single(names, at), at)

    def _checked(self, number: int, column: str, at: int) -> int:
        if not 0 <= number <= LARGEST_LABEL:
            raise DataError(
                f"{self._where}: column {column}, row {at}: expected a class number from 0 to "
                f"{LARGEST_LABEL}, got {number}; leave the cell empty if there is no class"
            )
        return number

    def _single(self, found: Mapping[str, Value], at: int) -> Value | None:
        if len(set(found.values())) > 1:
            told = " and ".join(f"{column} {value!r}" for column, value in found.items())
            raise DataError(
                f"{self._where}: row {at} has several classes: {told}; keep one of the columns, or "
                f"rename columns that are not classes"
            )
        return next(iter(found.values()), None)


def listed_names(classes: Sequence[Sequence[int | str]]) -> list[str]:
    """Return all names in lists of classes, in order of appearance, without numbers."""
    return list(dict.fromkeys(item for some in classes for item in some if isinstance(item, str)))
