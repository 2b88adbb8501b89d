"""One pass over all rows of a table: which rows are one image, and how classes are numbered."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.packing.class_numbers import ClassNumbers
from clipkit.data.packing.classes import CLASSES_COLUMNS, Classes, ClassLists
from clipkit.data.packing.labels import ColumnKinds, RowClass, RowClasses, Spellings, is_missing
from clipkit.data.packing.tables.columns import (
    CLASS_COLUMNS,
    STATUS_COLUMN,
    TableColumns,
    is_failed_download,
    used_columns,
)
from clipkit.data.packing.tables.row_files import RowSpan, TableRows
from clipkit.data.packing.tables.spool import RowGroups, RowSpool, name_hash
from clipkit.errors import DataError

_LOG: Final = logging.getLogger(__name__)
_NO_CLASS: Final = RowClass(None, None, 0)
Record = tuple[int, int, dict[str, Any]]
"""Number of the file, number of the row in messages, and values by column."""


@final
class TableSurvey:
    """Images of a table, in order of appearance, and its classes; contradictions are refused.

    An image in several rows is one image; an image whose bytes are in the table is one for itself,
    and so is each row of a table of questions or hypotheses.
    Memory is 8 bytes per row, 12 with classes.

    Args:
        parts: Files of the table, in order; all have the same columns.
        class_names: Names in the order of class numbers; None for the numbers of the table.
        columns: Columns that the user named.
        rows: Storage for all rows, in the same pass; None reads only the columns that are needed
            here.

    Attributes:
        parts: Files of the table.
        columns: Columns that are read.
        hashes: Hash of the image of each row, without rows of failed downloads.
        groups: Rows of each image.
        numbers: Numbers of the classes.

    Raises:
        DataError: If the table is damaged, lacks a column, or contradicts itself.
    """

    def __init__(
        self,
        parts: Sequence[TableRows],
        class_names: Sequence[str] | None = None,
        columns: TableColumns = TableColumns(),
        rows: RowSpool | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self._where = where = parts[0].where
        self.columns = used_columns(where, parts[0].columns, columns)
        spellings, kinds = Spellings(where), ColumnKinds(where)
        self._single = RowClasses(where, spellings, kinds)
        self._several = ClassLists(where, spellings, kinds)
        self._classes = _ClassesOfRows()
        self._ends: list[int] = []
        self._failed = array("q")
        self.hashes = self._read(rows)
        self.groups = RowGroups(self.hashes)
        self.numbers = self._number_classes(class_names, rows)

    def classes(self, records: Sequence[Record]) -> tuple[RowClass, Classes | None]:
        """Return the class of an image, and its list of classes; None if it has no list."""
        if not self.columns.has_classes:
            return _NO_CLASS, None
        own: RowClass | None = None
        lists: list[Any] = []
        listed = False
        for number, at, row in records:
            found = self._single.read(row, at)
            name = row[self.columns.files[0]]
            where = f"{self.parts[number].where}: {shown_name(name)}"
            own = found if own is None else own.joined(found, where)
            some = self._several.read(row, at)
            listed = listed or some is not None
            lists += some or []
        return own or _NO_CLASS, lists if listed else None

    def spool(self, rows: Int64[np.ndarray, " rows"]) -> RowSpool:
        """Read some rows of the table again, with all columns, and only the files that have them.

        Args:
            rows: Numbers of rows as in ``groups``, ascending.

        Raises:
            DataError: If the table has fewer rows now.
        """
        spool = RowSpool(rows)
        in_files = self._with_failed(rows)
        start = 0
        for number, (part, end) in enumerate(zip(self.parts, self._ends, strict=True)):
            wanted = in_files[(in_files >= start) & (in_files < end)] - start
            if len(wanted):
                span = RowSpan(int(wanted[0]), int(wanted[-1]) + 1)
                chosen = set(wanted.tolist())
                for at, row in enumerate(part.rows(self.columns.files, span), start=span.start):
                    if at in chosen:
                        spool.append((number, at + 1, row))
            start = end
        spool.close_writing()
        if len(spool) != len(rows):
            raise DataError(f"{self._where}: has fewer rows than before; it changed meanwhile")
        return spool

    def _read(self, spool: RowSpool | None) -> np.ndarray:
        """Read all rows, and return the hashes of their images."""
        hashes = array("Q")
        span = RowSpan() if spool is not None else RowSpan(columns=self._needed())
        num_rows = 0
        for number, part in enumerate(self.parts):
            if part.columns != self.parts[0].columns:
                raise DataError(
                    f"{part.where}: expected the columns of {self._where} "
                    f"({', '.join(self.parts[0].columns)}), got {', '.join(part.columns)}"
                )
            at = 0
            for at, row in enumerate(part.rows(self.columns.files, span), start=1):
                name = row[self.columns.files[0]]
                if is_missing(name) and is_failed_download(row):
                    self._failed.append(num_rows + at - 1)
                    continue
                self._check(part, at, row)
                is_own = self.columns.is_sample_per_row or isinstance(name, dict)
                hashes.append(name_hash(f"{number} {at}" if is_own else str(name)))
                if spool is not None:
                    spool.append((number, at, row))
            num_rows += at
            self._ends.append(num_rows)
        if spool is not None:
            spool.close_writing()
        if self._failed:
            _LOG.warning("%s: skipped %d rows of failed downloads", self._where, len(self._failed))
        return np.frombuffer(hashes, dtype=np.uint64)

    def _needed(self) -> tuple[str, ...]:
        """Return the columns that tell images and classes apart."""
        wanted = {self.columns.files[0], STATUS_COLUMN}
        if self.columns.has_classes:
            wanted |= set(CLASS_COLUMNS)
        return tuple(name for name in self.parts[0].columns if name in wanted)

    def _with_failed(self, rows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Return the positions of rows in the files, where failed downloads count too."""
        failed = np.frombuffer(self._failed, dtype=np.int64)
        # Before row r are r others and the failed rows; the n-th failed one at f has f - n others.
        before = np.searchsorted(failed - np.arange(len(failed)), rows, side="right")
        return np.asarray(rows, dtype=np.int64) + before

    def _check(self, part: TableRows, at: int, row: Mapping[str, Any]) -> None:
        if is_missing(row[self.columns.files[0]]):
            what = "image" if self.columns.images else "sound"
            raise DataError(f"{part.where}: row {at} names no {what}")
        if self.columns.has_classes:
            self._classes.add(self._single.read(row, at), self._several.read(row, at))

    def _number_classes(
        self, class_names: Sequence[str] | None, spool: RowSpool | None
    ) -> ClassNumbers:
        """Assign numbers to the classes of all images; rows of an image are joined."""
        found = self._classes
        rows: dict[tuple[int | None, str | None], RowClass] = {}
        if self.columns.has_classes:
            numbers = found.numbers()
            mixed = self.groups.mixed(numbers)
            several = [row for group in mixed for row in self.groups.rows(group)]
            spool = spool or self.spool(np.unique(np.array(several, dtype=np.int64)))
            for group in mixed:
                records = [tuple(spool.read(row)) for row in self.groups.rows(group)]
                own, _ = self.classes(records)
                rows.setdefault((own.number, own.name), own)
            is_single = np.ones(len(numbers), dtype=bool)
            is_single[several] = False
            for number in np.unique(numbers[is_single]).tolist():
                own = found.distinct[number]
                rows.setdefault((own.number, own.name), own)
        lists: list[Classes] = [list(found.listed_numbers), list(found.listed_names)]
        ordered = sorted(rows.values(), key=lambda row: row.row)
        return ClassNumbers.of(self._where, ordered, lists, class_names)


@final
class _ClassesOfRows:
    """Distinct classes of rows, and which of them each row has: 4 bytes per row."""

    def __init__(self) -> None:
        self.distinct: list[RowClass] = []
        self.listed_numbers: dict[int, None] = {}
        self.listed_names: dict[str, None] = {}
        self._by_class: dict[tuple[int | None, str | None], int] = {}
        self._numbers = array("I")

    def add(self, own: RowClass, listed: Classes | None) -> None:
        """Append a row."""
        number = self._by_class.setdefault((own.number, own.name), len(self.distinct))
        if number == len(self.distinct):
            self.distinct.append(own)
        self._numbers.append(number)
        for each in listed or ():
            if isinstance(each, int):
                self.listed_numbers[each] = None
            else:
                self.listed_names[each] = None

    def numbers(self) -> np.ndarray:
        """Return the position in ``distinct`` of each row's class."""
        return np.frombuffer(self._numbers, dtype=np.uint32)


def shown_name(value: Any) -> Any:
    """Return the name of an image in the table instead of its position."""
    return value["path"] if isinstance(value, dict) and value.keys() == {"row", "path"} else value


def has_lists(row: Mapping[str, Any]) -> bool:
    """Return whether a row has a column with several classes."""
    return any(column in row for column in CLASSES_COLUMNS)
