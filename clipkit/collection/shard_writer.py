"""Write the files of an embedded shard batch by batch, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, final

import numpy as np
from jaxtyping import Float16

from clipkit.atomic_files import new_file
from clipkit.collection.arrow import arrow, arrow_type
from clipkit.collection.info import IMAGE, TEXT, modality_columns
from clipkit.collection.shard_files import TABLE_SUFFIX, ShardRows, suffix_of
from clipkit.collection.shard_tables import COLUMNS, ROW_GROUP_ROWS
from clipkit.errors import naming


@final
class ShardWriter:
    """Writes the files of one shard: each completely or not at all, the table last.

    A context manager. If the block raises, nothing is written, and files that were there stay.

    Args:
        folder: The collection.
        name: Name of the shard's files.
        embedding_dim: Width of an embedding.
        kinds: What is embedded: "image", "text", and names of further modalities.
        column_types: Arrow type of each further column; None for no further columns. Those of
            further modalities are added.

    Examples:
        >>> columns = {name: [None, None] for name in COLUMNS}
        >>> columns |= {"key": ["a", "b"], "captions": [[], []]}
        >>> with ShardWriter("new", "00000", 2, kinds=["image"]) as writer:
        ...     writer.append(ShardRows(np.eye(2, dtype=np.float16), None, columns))
        >>> np.load("new/00000.images.f16.npy").shape
        (2, 2)
    """

    def __init__(
        self,
        folder: Path | str,
        name: str,
        embedding_dim: int,
        kinds: Sequence[str] = (IMAGE, TEXT),
        column_types: Mapping[str, str] | None = None,
    ) -> None:
        self._base = str(Path(folder) / name)
        self._width = embedding_dim
        self._kinds = tuple(kinds)
        further = modality_columns(kind for kind in kinds if kind not in (IMAGE, TEXT))
        self._schema = _schema({**COLUMNS, **(column_types or {}), **further})
        self._stack = ExitStack()
        self._waiting: list[Any] = []

    def __enter__(self) -> ShardWriter:
        with ExitStack() as stack:
            # Files take their names in reverse order: the table is the last one.
            table = stack.enter_context(new_file(self._base + TABLE_SUFFIX))
            pa = arrow()
            self._table = stack.enter_context(
                pa.parquet.ParquetWriter(table, self._schema, compression="zstd")
            )
            self._files = {
                kind: self._rows_file(stack, suffix_of(kind)) for kind in reversed(self._kinds)
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if error is None:
            with self._stack:
                self._write_rows(at_least=1)
            return None
        return self._stack.__exit__(kind, error, trace)

    def append(self, rows: ShardRows) -> None:
        """Add the next samples of the shard.

        Args:
            rows: Their embeddings and columns. What is not in ``kinds`` is ignored.
        """
        given = {IMAGE: rows.images, TEXT: rows.texts, **rows.modalities}
        for kind, file in self._files.items():
            embeddings = given.get(kind)
            if embeddings is not None:
                file.append(embeddings)
        self._waiting.append(arrow().table(dict(rows.columns), schema=self._schema))
        self._write_rows(at_least=ROW_GROUP_ROWS)

    def _rows_file(self, stack: ExitStack, suffix: str) -> _RowsFile:
        path = self._base + suffix
        file = stack.enter_context(new_file(path)).open("wb")
        return stack.enter_context(_RowsFile(file, path, self._width))

    def _write_rows(self, at_least: int) -> None:
        """Write the groups of rows of the table that are complete."""
        waiting = sum(map(len, self._waiting))
        if waiting < at_least:
            return
        table = arrow().concat_tables(self._waiting)
        end = waiting if at_least == 1 else waiting // at_least * at_least
        with naming(self._base + TABLE_SUFFIX):
            self._table.write_table(table[:end], row_group_size=ROW_GROUP_ROWS)
        self._waiting = [table[end:]]


@final
class _RowsFile:
    """A ``.npy`` file of float16 rows, whose number is known at the end only.

    NumPy leaves space in the header for the number of rows, so that it can be written over.
    """

    def __init__(self, file: BinaryIO, path: str, width: int) -> None:
        self._file = file
        self._path = path
        self._width = width
        self._num_rows = 0

    def __enter__(self) -> _RowsFile:
        with naming(self._path):
            self._write_header()
        return self

    def append(self, rows: Float16[np.ndarray, "B D"]) -> None:
        assert rows.dtype == np.float16 and rows.shape[1:] == (self._width,), rows.shape  # noqa: PT018
        with naming(self._path):
            self._file.write(np.ascontiguousarray(rows).data)
        self._num_rows += len(rows)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file, naming(self._path):
            if kind is None:
                start = self._file.seek(0)
                length = self._write_header()
                assert start == 0 and length > 0  # noqa: PT018

    def _write_header(self) -> int:
        shape = (self._num_rows, self._width)
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()


def write_shard_files(rows: ShardRows, folder: Path | str, name: str) -> None:
    """Write the files of a shard at once; see ``ShardWriter``.

    Args:
        rows: The content.
        folder: The collection.
        name: Name of the shard's files.
    """
    given = {IMAGE: rows.images, TEXT: rows.texts, **rows.modalities}
    embedded = {kind: matrix for kind, matrix in given.items() if matrix is not None}
    known = {*COLUMNS, *modality_columns(rows.modalities)}
    further = {
        column: str(arrow().array(values).type)
        for column, values in rows.columns.items()
        if column not in known
    }
    width = next(iter(embedded.values())).shape[1]
    with ShardWriter(folder, name, width, tuple(embedded), further) as writer:
        writer.append(rows)


def _schema(types: Mapping[str, str]) -> Any:
    return arrow().schema([(name, arrow_type(kind)) for name, kind in types.items()])
