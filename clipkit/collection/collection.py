"""An embedded collection: the rows of all shards, numbered as the samples of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from jaxtyping import Bool, Float16, Int64

from clipkit.collection.arrow import arrow
from clipkit.collection.info import IMAGE, CollectionInfo, read_info
from clipkit.collection.shard_files import Rows, ShardFiles
from clipkit.errors import DataError

_SHOWN_NAMES: Final = 3


@final
class Collection:
    """Reads the embeddings and the tables of a folder that ``clipkit embed`` wrote.

    A row is a sample: its number is the sample's id, its position in the concatenation of all
    shards. Embeddings are mapped into memory, tables are read shard by shard.

    Args:
        folder: The folder.

    Raises:
        DataError: If the folder is no collection, or not all of its shards are embedded.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.info: CollectionInfo = read_info(folder)
        width = self.info.embedding_dim
        self.shards = tuple(ShardFiles(folder, shard, width) for shard in self.info.shards)
        missing = [files.shard.name for files in self.shards if not files.is_complete()]
        if missing:
            named = ", ".join(missing[:_SHOWN_NAMES])
            raise DataError(
                f"{folder}: {len(missing)} of {len(self.shards)} shards are not embedded yet, such "
                f"as {named}; run the same `clipkit embed` again, which continues"
            )
        counts = [shard.num_samples for shard in self.info.shards]
        self.starts: Int64[np.ndarray, " shards+1"] = np.concatenate(
            [[0], np.cumsum(counts)]
        ).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def locate(self, row: int) -> tuple[int, int]:
        """Return the shard of a row and its position in the shard.

        Raises:
            DataError: If there is no such row.
        """
        if not 0 <= row < len(self):
            raise DataError(f"{self.folder}: row {row}: expected 0 to {len(self) - 1}")
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return shard, row - int(self.starts[shard])

    def require(self, kind: str) -> None:
        """Refuse a modality that the model of the collection did not embed.

        Args:
            kind: "image", or the name of a further modality.

        Raises:
            DataError: If the collection has no embeddings of it.
        """
        known = ((IMAGE,) if self.info.has_images else ()) + self.info.modalities
        if kind not in known:
            raise DataError(
                f"{self.folder}: expected embeddings of {kind}s, got those of "
                f"{' and '.join(f'{name}s' for name in known) or 'texts only'}; embed the data "
                f"with a model that has a tower for {kind}s"
            )

    def embedded_rows(self, kind: str = IMAGE) -> Bool[np.ndarray, " N"]:
        """Return which rows have an embedding: those without an error.

        Args:
            kind: "image", or the name of a further modality.

        Raises:
            DataError: If a table is missing or damaged.
        """
        column = "error" if kind == IMAGE else f"{kind}_error"
        embedded = np.zeros(len(self), dtype=np.bool_)
        for start, files in zip(self.starts, self.shards, strict=False):
            errors = files.table([column]).column(column)
            embedded[start : start + len(errors)] = np.asarray(errors.is_null())
        return embedded

    def spans(self, most_rows: int) -> Iterator[tuple[int, int, int]]:
        """Yield number of the shard, and first and end position in it, of consecutive rows.

        Args:
            most_rows: Number of rows of a span; the last one of a shard may be shorter.

        Examples:
            >>> list(Collection("collection").spans(most_rows=4))
            [(0, 0, 4), (0, 4, 5), (1, 0, 3)]
        """
        for number, shard in enumerate(self.info.shards):
            for first in range(0, shard.num_samples, most_rows):
                yield number, first, min(first + most_rows, shard.num_samples)

    def image_tiles(self, tile_rows: int = 65_536) -> Iterator[tuple[int, Rows]]:
        """Yield the first row and the embeddings of consecutive images; see ``tiles``."""
        return self.tiles(IMAGE, tile_rows)

    def tiles(self, kind: str, tile_rows: int = 65_536) -> Iterator[tuple[int, Rows]]:
        """Yield the first row and the embeddings of consecutive samples, in views of the files.

        A view keeps the file of its shard open: keep copies of tiles instead.

        Args:
            kind: "image", or the name of a further modality.
            tile_rows: Number of rows of a tile; the last one of a shard may be shorter.

        Raises:
            DataError: If the collection has no embeddings of it, or a file is missing or damaged.
        """
        self.require(kind)
        for start, files in zip(self.starts, self.shards, strict=False):
            rows = files.embeddings(kind)
            for first in range(0, len(rows), tile_rows):
                yield int(start) + first, rows[first : first + tile_rows]

    def images(self, rows: Int64[np.ndarray, " rows"]) -> Float16[np.ndarray, "rows D"]:
        """Read the embeddings of some images, in any order."""
        return self.embeddings(rows, IMAGE)

    def embeddings(
        self, rows: Int64[np.ndarray, " rows"], kind: str
    ) -> Float16[np.ndarray, "rows D"]:
        """Read the embeddings of some samples, in any order.

        Args:
            rows: The rows.
            kind: "image", or the name of a further modality.

        Raises:
            DataError: If the collection has no embeddings of it, or a file is missing or damaged.
        """
        self.require(kind)
        rows = np.asarray(rows, dtype=np.int64)
        found = np.empty((len(rows), self.info.embedding_dim), dtype=np.float16)
        for shard, here in self._by_shard(rows):
            found[here] = self.shards[shard].some(kind, rows[here] - self.starts[shard])
        return found

    def table(self, columns: Sequence[str], rows: Int64[np.ndarray, " rows"] | None = None) -> Any:
        """Read columns of some rows, in their order, as a ``pyarrow.Table``.

        Args:
            columns: Names of the columns; see ``clipkit.collection.shard_tables.COLUMNS``.
            rows: The rows; None for all.

        Raises:
            DataError: If there is no such column, or a file is missing or damaged.
        """
        pa = arrow()
        if rows is None:
            return pa.concat_tables([files.table(columns) for files in self.shards])
        rows = np.asarray(rows, dtype=np.int64)
        parts = [self.shards[0].rows(columns, np.empty(0, dtype=np.int64))]
        places = []
        for shard, here in self._by_shard(rows):
            parts.append(self.shards[shard].rows(columns, rows[here] - self.starts[shard]))
            places.append(here)
        order = np.argsort(np.concatenate(places)) if places else np.empty(0, dtype=np.int64)
        return pa.concat_tables(parts).take(order)

    def _by_shard(self, rows: Int64[np.ndarray, " rows"]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each shard that has some of the rows, and their places in ``rows``."""
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            wrong = int(rows[(rows < 0) | (rows >= len(self))][0])
            raise DataError(f"{self.folder}: row {wrong}: expected 0 to {len(self) - 1}")
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(shards).tolist():
            yield shard, np.flatnonzero(shards == shard)
