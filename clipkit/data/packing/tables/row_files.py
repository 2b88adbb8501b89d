"""Rows of one table, in batches: CSV, TSV, Parquet."""

from __future__ import annotations

import csv
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO, final

from clipkit.errors import DataError

TABLE_SUFFIXES: Final = (".csv", ".tsv", ".parquet")
_CSV_LIMIT: Final = min(sys.maxsize, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class RowSpan:
    """Rows and columns of a table that are read.

    Args:
        start: First row.
        stop: Row after the last one; None for all rows.
        columns: Columns that are needed; others may be left out. None for all.
    """

    start: int = 0
    stop: int | None = None
    columns: Sequence[str] | None = None


class TableRows(ABC):
    """Rows of one table (abstract).

    Attributes:
        where: Name of the table in messages.
        columns: Names of all columns.
    """

    where: str
    columns: Sequence[str]

    @abstractmethod
    def rows(self, images: Sequence[str], span: RowSpan = RowSpan()) -> Iterator[dict[str, Any]]:
        """Yield rows, without the bytes of images.

        Args:
            images: Columns with images.
            span: Rows and columns to be read.

        Returns:
            Values by column. An image is the name of its file, or a dict with its ``path`` if its
            bytes are in the table.

        Raises:
            DataError: If the table is damaged.
        """

    @abstractmethod
    def image(self, column: str, row: int) -> bytes | None:
        """Return the bytes of an image in the table; None if it has none."""

    @abstractmethod
    def identity(self, column: str, row: int) -> str:
        """Return a text that changes if the bytes of an image change."""


@final
class CsvRows(TableRows):
    """Rows of a CSV or TSV file; images are files.

    Args:
        path: The file. Columns may also be separated by ``|``, as in Flickr30k's ``results.csv``.
    """

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path
        with _open_csv(path) as file:
            self._delimiter = _delimiter(path, file.readline())
            file.seek(0)
            names = next(csv.reader(file, delimiter=self._delimiter, strict=True), [])
            self.columns = [name.strip() for name in names] if self._delimiter == "|" else names
        refuse_twins(self.where, self.columns)

    def rows(
        self,
        images: Sequence[str],  # noqa: ARG002
        span: RowSpan = RowSpan(),
    ) -> Iterator[dict[str, Any]]:
        """See ``TableRows.rows``."""
        with _open_csv(self._path) as file:
            reader = csv.reader(file, delimiter=self._delimiter, strict=True)
            next(reader, None)
            cells: list[str]
            filled = islice((row for row in reader if row), span.start, span.stop)
            for at, cells in enumerate(filled, start=span.start + 1):
                if len(cells) != len(self.columns):
                    raise DataError(
                        f"{self.where}: row {at} has another number of columns than the header: "
                        f"expected {len(self.columns)}, got {len(cells)}"
                    )
                yield dict(zip(self.columns, cells, strict=True))

    def image(self, column: str, row: int) -> bytes | None:
        """See ``TableRows.image``."""
        raise AssertionError(f"{self.where}: {column}, row {row}: images are files")

    def identity(self, column: str, row: int) -> str:
        """See ``TableRows.identity``."""
        raise AssertionError(f"{self.where}: {column}, row {row}: images are files")


def refuse_twins(where: str, columns: Sequence[str]) -> None:
    """Refuse two columns of one name: one of them would be lost."""
    for name, count in Counter(columns).items():
        if name and count > 1:
            raise DataError(f"{where}: {count} columns are called {name!r}; rename all but one")


def _delimiter(path: Path, header: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return "|" if "|" in header and "," not in header else ","


@contextmanager
def _open_csv(path: Path) -> Iterator[TextIO]:
    csv.field_size_limit(_CSV_LIMIT)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a UTF-8 table: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
