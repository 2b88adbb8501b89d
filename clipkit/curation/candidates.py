"""The samples that a filter decides on: those of a collection that previous filters kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Final, final

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int64, UInt8

from clipkit.collection import Collection, ShardFiles
from clipkit.curation.scores import sample_scores

OnRows = Callable[[int, int], None]
"""Called with the numbers of completed and of all rows, for a progress bar."""
EMBEDDING_ROWS: Final = 16_384
"""Embeddings that are read at a time, which bounds the memory."""


def no_progress(done: int, total: int) -> None:
    """Show no progress."""


def finite_rows(images: Float16[np.ndarray, "rows D"]) -> Float32[np.ndarray, "rows D"]:
    """Return embeddings in float32; zeros, which are similar to nothing, in place of NaN rows."""
    rows = images.astype(np.float32)
    is_finite = np.isfinite(rows).all(axis=1)
    if not is_finite.all():
        rows[~is_finite] = 0.0
    return rows


@final
class Candidates:
    """Samples of a collection, read shard by shard.

    Args:
        collection: The collection.
        rows: Numbers of the samples, in ascending order; None for all.
        on_rows: Shows the progress of a pass over the samples.

    Attributes:
        collection: The collection.
        rows: Numbers of the samples.
    """

    def __init__(
        self,
        collection: Collection,
        rows: Int64[np.ndarray, " candidates"] | None = None,
        on_rows: OnRows = no_progress,
    ) -> None:
        self.collection = collection
        self.rows = np.arange(len(collection)) if rows is None else rows
        self.on_rows = on_rows

    def __len__(self) -> int:
        return len(self.rows)

    def shards(self) -> Iterator[tuple[slice, ShardFiles, Int64[np.ndarray, " rows"]]]:
        """Yield places of candidates, the files of their shard, and their positions in it."""
        ends = np.searchsorted(self.rows, self.collection.starts)
        starts = self.collection.starts
        for number, files in enumerate(self.collection.shards):
            places = slice(int(ends[number]), int(ends[number + 1]))
            if places.start < places.stop:
                yield places, files, self.rows[places] - starts[number]
                self.on_rows(places.stop, len(self.rows))

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[slice, Any]]:
        """Yield places of the candidates of a shard, and columns of theirs as a ``pyarrow.Table``.

        Raises:
            DataError: If there is no such column, it has another type, or a file is missing or
                damaged.
        """
        for places, files, positions in self.shards():
            table = files.table(columns)
            yield places, table if len(positions) == len(table) else table.take(positions)

    def numbers(self, column: str) -> np.ndarray:
        """Return a column of numbers as float64; NaN where the value is missing.

        Raises:
            DataError: As ``tables`` does.
        """
        values: np.ndarray = np.empty(len(self), dtype=np.float64)
        for places, table in self.tables([column]):
            cast = table.column(column).cast("float64")
            values[places] = cast.to_numpy()
        return values

    def hashes(
        self, column: str, width: int
    ) -> tuple[UInt8[np.ndarray, "candidates width"], Bool[np.ndarray, " candidates"]]:
        """Return a column of byte strings, zeros where one is missing; and where none is missing.

        Args:
            column: Name of the column.
            width: Bytes of a value.

        Raises:
            DataError: As ``tables`` does.
        """
        rows: UInt8[np.ndarray, "candidates width"] = np.zeros((len(self), width), np.uint8)
        is_known = np.zeros(len(self), dtype=np.bool_)
        for places, table in self.tables([column]):
            known = table.column(column).is_valid().to_numpy()
            values = b"".join(table.column(column).drop_null().to_pylist())
            rows[places][known] = np.frombuffer(values, dtype=np.uint8).reshape(-1, width)
            is_known[places] = known
        return rows, is_known

    def embeddings(self) -> Iterator[tuple[slice, Float32[np.ndarray, "tile D"]]]:
        """Yield places of candidates, and the embeddings of their images in float32.

        Raises:
            DataError: If a file is missing or damaged.
        """
        self.collection.require("image")
        for places, files, positions in self.shards():
            images = files.images()
            for first in range(0, len(positions), EMBEDDING_ROWS):
                tile = positions[first : first + EMBEDDING_ROWS]
                start = places.start + first
                yield slice(start, start + len(tile)), finite_rows(images[tile])

    @cached_property
    def scores(self) -> Float32[np.ndarray, " candidates"]:
        """Image-text scores; NaN for a sample without captions.

        Raises:
            DataError: If a file is missing or damaged.
        """
        scores: Float32[np.ndarray, " candidates"] = np.empty(len(self), dtype=np.float32)
        self.collection.require("image")
        for places, files, positions in self.shards():
            scores[places] = sample_scores(files)[positions]
        return scores

    def some(self, places: np.ndarray) -> Candidates:
        """Return some of the candidates, by their places in ascending order or by a mask."""
        part = Candidates(self.collection, self.rows[places], self.on_rows)
        if "scores" in self.__dict__:
            part.__dict__["scores"] = self.scores[places]
        return part
