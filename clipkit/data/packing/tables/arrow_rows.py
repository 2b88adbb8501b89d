"""Rows of Arrow tables: Parquet files, and ``datasets.Dataset``."""

from __future__ import annotations

import bisect
import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol, final

import numpy as np

from clipkit.data.packing.items import state_of
from clipkit.data.packing.tables.arrow_columns import ArrowColumns
from clipkit.data.packing.tables.row_files import RowSpan, TableRows, refuse_twins
from clipkit.errors import DataError

_ROWS_PER_BATCH: Final = 4096
_IMAGES_PER_BATCH: Final = 16
"""Small, because a batch of images is in memory at once."""
_BUFFER_BYTES: Final = 2**20
_CURSORS: Final = threading.local()


@final
class ParquetRows(TableRows):
    """Rows of a Parquet file; images are files, bytes, or the Hub's ``struct<bytes, path>``.

    Args:
        path: The file.
        version: Text that identifies the content, such as a commit of the Hub; None for path, size
            and time of change.
    """

    def __init__(self, path: Path, version: str | None = None) -> None:
        self.where = str(path)
        self._path = path
        self._version = f"{path} {state_of(path)}" if version is None else version
        with _open_parquet(path) as file:
            self._content = ArrowColumns(file.schema_arrow)
            self._embedded = [
                name for name in self._content.with_bytes if _all_embedded(file.metadata, name)
            ]
        self.columns = self._content.names
        refuse_twins(self.where, self.columns)

    def rows(self, images: Sequence[str], span: RowSpan = RowSpan()) -> Iterator[dict[str, Any]]:
        """See ``TableRows.rows``."""
        content = self._content
        content.check_images(self.where, images)
        needed = content.names if span.columns is None else span.columns
        stored = [name for name in images if name in content.with_bytes and name in needed]
        # Where every image is embedded, only the paths are read.
        embedded = [name for name in stored if name in self._embedded]
        leaves = [f"{name}.path" for name in embedded if name in content.with_paths]
        uncertain = [name for name in stored if name not in embedded]
        size = _IMAGES_PER_BATCH if uncertain else _ROWS_PER_BATCH
        plain = [name for name in content.plain if name in needed]
        with _open_parquet(self._path) as file:
            groups, first = _groups_within(file.metadata, span)
            columns = [*plain, *leaves, *uncertain]
            for batch in file.iter_batches(size, row_groups=groups, columns=columns):
                start = max(0, span.start - first)
                stop = batch.num_rows if span.stop is None else max(0, span.stop - first)
                part = batch.slice(start, max(0, stop - start))
                yield from content.rows(part, stored, first + start, embedded)
                first += batch.num_rows

    def image(self, column: str, row: int) -> bytes | None:
        """See ``TableRows.image``."""
        with _open_errors(self._path):
            return _bytes_in(_cursor(self._path, column).read(row))

    def identity(self, column: str, row: int) -> str:
        """See ``TableRows.identity``."""
        return f"{self._version} {column} {row}"


class ArrowDataset(Protocol):
    """What is used of a ``datasets.Dataset``."""

    def with_format(self, type: str, /) -> Any:
        """Return the same rows; with "arrow", batches are Arrow tables."""

    def __len__(self) -> int: ...


def check_dataset(dataset: object) -> None:
    """Refuse objects that are not one split with rows of known number.

    Raises:
        DataError: If it is a ``DatasetDict``, an ``IterableDataset``, empty, or something else.
    """
    name = type(dataset).__name__
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(repr, dataset))
        raise DataError(f"{name}: expected one split, got {splits}; choose one: data['train']")
    if not hasattr(dataset, "with_format"):
        raise DataError(f"{name}: expected a path, an address or a datasets.Dataset")
    if not hasattr(dataset, "__len__"):
        raise DataError(f"{name}: expected rows of known number; load it without streaming=True")
    if not len(dataset):
        raise DataError(f"{name}: no samples found")


@final
class DatasetRows(TableRows):
    """Rows of a ``datasets.Dataset``.

    Args:
        dataset: The data set, with its selection and order of rows.
    """

    def __init__(self, dataset: ArrowDataset) -> None:
        self.where = type(dataset).__name__
        self._dataset = dataset.with_format("arrow")
        first = self._dataset[:1]
        self._content = ArrowColumns(first.schema)
        self.columns = self._content.names

    def rows(self, images: Sequence[str], span: RowSpan = RowSpan()) -> Iterator[dict[str, Any]]:
        """See ``TableRows.rows``."""
        self._content.check_images(self.where, images)
        stored = [name for name in images if name in self._content.with_bytes]
        yield from islice(self._all(stored), span.start, span.stop)

    def _all(self, stored: Sequence[str]) -> Iterator[dict[str, Any]]:
        first = 0
        for table in self._dataset.iter(_ROWS_PER_BATCH):
            for batch in table.to_batches():
                yield from self._content.rows(batch, stored, first, ())
                first += batch.num_rows

    def image(self, column: str, row: int) -> bytes | None:
        """See ``TableRows.image``."""
        return _bytes_in(self._dataset[row : row + 1].column(column)[0].as_py())

    def identity(self, column: str, row: int) -> str:
        """See ``TableRows.identity``."""
        data = self.image(column, row) or b""
        return hashlib.blake2b(data, digest_size=16).hexdigest()


@final
class _Cursor:
    """Reads the cells of one column, forward at little cost."""

    def __init__(self, path: Path, column: str) -> None:
        from pyarrow import parquet

        self.path = path
        self._column = column
        self._file = parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES)
        metadata = self._file.metadata
        sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        self._starts: list[int] = np.cumsum([0, *sizes]).tolist()
        self._group, self._first = -1, 0
        self._batch: Any = None
        self._batches: Iterator[Any] = iter(())

    def read(self, row: int) -> Any:
        """Return the cell in a row."""
        group = bisect.bisect_right(self._starts, row) - 1
        if group != self._group or row < self._first:
            self._group, self._first, self._batch = group, self._starts[group], None
            self._batches = self._file.iter_batches(
                _IMAGES_PER_BATCH, row_groups=[group], columns=[self._column]
            )
        while self._batch is None or row >= self._first + self._batch.num_rows:
            self._first += 0 if self._batch is None else self._batch.num_rows
            self._batch = next(self._batches)
        return self._batch.column(0)[row - self._first].as_py()


def _cursor(path: Path, column: str) -> _Cursor:
    """Return the cursor of this thread; one file per column stays open."""
    cursors: dict[str, _Cursor] = _CURSORS.__dict__
    if column not in cursors or cursors[column].path != path:
        cursors[column] = _Cursor(path, column)
    return cursors[column]


def _bytes_in(cell: Any) -> bytes | None:
    data: bytes | None = cell["bytes"] if isinstance(cell, dict) else cell
    return data


def _all_embedded(metadata: Any, column: str) -> bool:
    """Return whether the statistics report bytes for every row of an image column."""
    for group in range(metadata.num_row_groups):
        chunks = [metadata.row_group(group).column(n) for n in range(metadata.num_columns)]
        for chunk in chunks:
            if chunk.path_in_schema in (column, f"{column}.bytes"):
                known = chunk.statistics
                if known is None or not known.has_null_count or known.null_count:
                    return False
    return True


def _groups_within(metadata: Any, span: RowSpan) -> tuple[list[int], int]:
    """Return the row groups that have rows of a span, and the first row of the first of them."""
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    ends = np.cumsum(sizes, dtype=np.int64)
    stop = metadata.num_rows if span.stop is None else span.stop
    inside = np.flatnonzero((ends > span.start) & (ends - sizes < stop)).tolist()
    return inside, int(ends[inside[0]] - sizes[inside[0]]) if inside else 0


@contextmanager
def _open_errors(path: Path) -> Iterator[None]:
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pip install 'clipkit[tables]'") from error
    try:
        yield
    except (ArrowException, OSError, ValueError, ArithmeticError) as error:
        # Arrow's errors for damaged columns have no common base.
        raise DataError(f"{path}: not a complete Parquet file: {error}") from error


@contextmanager
def _open_parquet(path: Path) -> Iterator[Any]:
    with _open_errors(path):
        from pyarrow import parquet

        with parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
            yield file
