"""Files of one embedded shard: ``NAME.images.f16.npy``, ``NAME.texts.f16.npy``, ``NAME.parquet``.

Each further modality has a file, such as ``NAME.sound.f16.npy``, with a row for each sample.
The table is written last: a shard that has one is complete.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np
from jaxtyping import Float16, Int64

from clipkit.collection.arrow import arrow
from clipkit.collection.info import IMAGE, TEXT, CollectionShard
from clipkit.collection.shard_tables import Stamp, footer, group_starts, stamp_of, typed
from clipkit.collection.unreadable import unreadable
from clipkit.errors import DataError

IMAGES_SUFFIX: Final = ".images.f16.npy"
TEXTS_SUFFIX: Final = ".texts.f16.npy"
TABLE_SUFFIX: Final = ".parquet"
_FEW_ROWS: Final = 64  # of a shard; each is read by itself, as a map of the file takes longer

Rows = Float16[np.ndarray, "N D"]


@dataclass(frozen=True, slots=True)
class ShardRows:
    """Content of the files of a shard with N samples and M captions.

    Args:
        images: Unit-norm embeddings of the images, or zeros where ``error`` says why; None if the
            model has no tower for images.
        texts: Unit-norm embeddings of the captions, sample by sample; None without captions.
        columns: Values of each column of ``COLUMNS`` and of the further columns, one per sample.
        modalities: By name, unit-norm embeddings of a further modality, or zeros where a column
            such as ``sound_error`` says why.
    """

    images: Rows | None
    texts: Float16[np.ndarray, "texts D"] | None
    columns: Mapping[str, Sequence[Any]]
    modalities: Mapping[str, Rows] = dataclasses.field(default_factory=dict)


def suffix_of(kind: str) -> str:
    """Return the suffix of the file with the embeddings of a kind.

    Examples:
        >>> suffix_of("image"), suffix_of("sound")
        ('.images.f16.npy', '.sound.f16.npy')
    """
    return {IMAGE: IMAGES_SUFFIX, TEXT: TEXTS_SUFFIX}.get(kind, f".{kind}.f16.npy")


class _Header(NamedTuple):
    """Header of a file that was read; another state of the file has another stamp."""

    stamp: Stamp
    offset: int
    shape: tuple[int, ...]


@final
class ShardFiles:
    """Reads the files of an embedded shard.

    Files of embeddings are opened each time, as there may be more shards than a process may open
    files; their headers, which take most of that time, are read once.

    Args:
        folder: The collection.
        shard: The shard.
        embedding_dim: Width of an embedding.
    """

    def __init__(self, folder: Path | str, shard: CollectionShard, embedding_dim: int) -> None:
        self.shard = shard
        self._base = str(Path(folder) / shard.name)
        self._width = embedding_dim
        self._headers: dict[str, _Header] = {}

    def is_complete(self) -> bool:
        """Return whether the shard was embedded."""
        return Path(self._base + TABLE_SUFFIX).is_file()

    def check(self, kinds: Iterable[str]) -> None:
        """Check that the files are there and have the right sizes, by their headers and footers.

        Args:
            kinds: What was embedded: ``CollectionInfo.kinds``.

        Raises:
            DataError: If a file is missing, truncated, or of another size.
        """
        for kind in kinds:
            if kind == TEXT:
                self.texts()
            else:
                self.embeddings(kind)
        with self._opened_table() as file:
            self._check_rows(file.metadata.num_rows)

    def images(self) -> Rows:
        """Map the embeddings of the images into memory.

        Raises:
            DataError: If the file is missing, damaged, or of another size.
        """
        return self.embeddings(IMAGE)

    def embeddings(self, kind: str) -> Rows:
        """Map the embeddings of images or of a further modality, one per sample, into memory.

        Args:
            kind: "image", or the name of a modality of the collection.

        Raises:
            DataError: If the file is missing, damaged, or of another size.
        """
        suffix = suffix_of(kind)
        rows = self._map(suffix)
        if len(rows) != self.shard.num_samples:
            raise DataError(
                f"{self._base}{suffix}: expected {self.shard.num_samples} rows, got "
                f"{len(rows)}; embed the shard again"
            )
        return rows

    def some(
        self, kind: str, positions: Int64[np.ndarray, " rows"]
    ) -> Float16[np.ndarray, "rows D"]:
        """Read the embeddings of some samples; see ``embeddings``.

        Args:
            kind: "image", or the name of a modality of the collection.
            positions: Positions of the samples in the shard.

        Raises:
            DataError: If the file is missing, damaged, or of another size.
        """
        if len(positions) <= _FEW_ROWS:
            found = self._read_each(suffix_of(kind), positions)
            if found is not None:
                return found
        chosen: Float16[np.ndarray, "rows D"] = self.embeddings(kind)[positions]
        return chosen

    def texts(self) -> Float16[np.ndarray, "texts D"]:
        """Map the embeddings of the captions into memory.

        Raises:
            DataError: If the file is missing, damaged, or of another width.
        """
        return self._map(TEXTS_SUFFIX)

    def text_starts(self) -> Int64[np.ndarray, " N+1"]:
        """Return the first row in ``texts`` of each sample's captions, and the number of captions.

        Raises:
            DataError: As ``table`` does.
        """
        captions = self.table(["captions"]).column("captions").combine_chunks()
        lengths = np.asarray(captions.value_lengths().fill_null(0), dtype=np.int64)
        starts: Int64[np.ndarray, " N+1"] = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=starts[1:])
        return starts

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """Read columns of the table, as a ``pyarrow.Table``.

        Args:
            columns: Names of the columns; None for all.

        Raises:
            DataError: If the file is missing, damaged, or of another size.
        """
        with self._opened_table() as file:
            self._check_columns(file, columns or ())
            content = file.read(None if columns is None else list(columns))
            table = typed(content, self._base + TABLE_SUFFIX)
        self._check_rows(len(table))
        return table

    def rows(self, columns: Sequence[str], positions: Int64[np.ndarray, " rows"]) -> Any:
        """Read columns of some rows, in their order, as a ``pyarrow.Table``.

        Only those parts of the table are read that have some of the rows.

        Args:
            columns: Names of the columns.
            positions: Positions of the rows in the shard.

        Raises:
            DataError: As ``table`` does.
        """
        with self._opened_table() as file:
            self._check_columns(file, columns)
            self._check_rows(file.metadata.num_rows)
            starts = group_starts(file)
            groups, inverse = np.unique(
                np.searchsorted(starts, positions, side="right") - 1, return_inverse=True
            )
            content = file.read_row_groups(groups.tolist(), list(columns))
            sizes = np.diff(starts)[groups]
            places = positions - starts[groups][inverse] + (np.cumsum(sizes) - sizes)[inverse]
            return typed(content.take(places), self._base + TABLE_SUFFIX)

    def row_group(self, columns: Sequence[str], position: int) -> tuple[int, Any]:
        """Read the part of the table that is stored together with a row.

        Args:
            columns: Names of the columns.
            position: Position of the row in the shard.

        Returns:
            Position of the part's first row, and the part as a ``pyarrow.Table``.

        Raises:
            DataError: If the file is missing, damaged, or of another size.
        """
        with self._opened_table(keep_footer=True) as file:
            self._check_rows(file.metadata.num_rows)
            starts = group_starts(file)
            number = int(np.searchsorted(starts, position, side="right")) - 1
            content = file.read_row_group(number, list(columns), use_threads=False)
            return int(starts[number]), typed(content, self._base + TABLE_SUFFIX)

    @contextmanager
    def _opened_table(self, keep_footer: bool = False) -> Iterator[Any]:
        pa, path = arrow(), self._base + TABLE_SUFFIX
        try:
            known = footer(path, stamp_of(Path(path).stat())) if keep_footer else None
            with pa.parquet.ParquetFile(path, metadata=known) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, error, "embed the shard again") from error

    def _check_columns(self, file: Any, columns: Sequence[str]) -> None:
        known = file.schema_arrow.names
        if missing := [name for name in columns if name not in known]:
            raise DataError(
                f"{self._base}{TABLE_SUFFIX}: has no column {missing[0]!r}; it has "
                f"{', '.join(known)}"
            )

    def _check_rows(self, num_rows: int) -> None:
        if num_rows != self.shard.num_samples:
            raise DataError(
                f"{self._base}{TABLE_SUFFIX}: expected {self.shard.num_samples} rows, got "
                f"{num_rows}; embed the shard again"
            )

    def _read_each(self, suffix: str, positions: Int64[np.ndarray, " rows"]) -> Rows | None:
        """Read single rows; None if the file must be checked first, or is not what it was."""
        known, path = self._headers.get(suffix), self._base + suffix
        if known is None or known.shape[0] != self.shard.num_samples:
            return None
        size = np.dtype(np.float16).itemsize * self._width
        starts = (known.offset + size * positions).tolist()
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as in _map
                if stamp_of(os.fstat(file.fileno())) != known.stamp:
                    return None
                content = b"".join(os.pread(file.fileno(), size, start) for start in starts)
        except OSError as error:
            raise unreadable(path, error, "embed the shard again") from error
        if len(content) != size * len(starts):
            return None
        return np.frombuffer(content, np.float16).reshape(-1, self._width)

    def _map(self, suffix: str) -> Rows:
        path = self._base + suffix
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - Path.open takes twice the time
                stamp = stamp_of(os.fstat(file.fileno()))
                known = self._headers.get(suffix)
                if known is not None and known.stamp == stamp:
                    mapped: Rows = np.memmap(file, np.float16, "r", known.offset, known.shape)
                    return mapped
            rows: Rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise unreadable(path, error, "embed the shard again") from error
        if rows.dtype != np.float16 or rows.ndim != 2 or rows.shape[1] != self._width:
            raise DataError(
                f"{path}: expected float16 [rows, {self._width}], got {rows.dtype} "
                f"{list(rows.shape)}; embed the shard again"
            )
        if isinstance(rows, np.memmap) and not np.isfortran(rows):
            self._headers[suffix] = _Header(stamp, rows.offset, rows.shape)
        return rows
