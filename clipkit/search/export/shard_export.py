"""The samples of a shard that have an embedding, for an export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float16, Int64

from clipkit.collection import Collection
from clipkit.search.records import finite_or_none

_ERROR: Final = "error"


@dataclass(frozen=True, slots=True)
class ShardExport:
    """The samples of one shard that have an embedding, in order.

    Args:
        rows: Number of each sample in the collection.
        places: Number of each sample in the shard.
        images: Embeddings of the images.
        table: Columns of the samples, a ``pyarrow.Table``.
    """

    rows: Int64[np.ndarray, " rows"]
    places: Int64[np.ndarray, " rows"]
    images: Float16[np.ndarray, "rows D"]
    table: Any

    def values(self, name: str) -> list[Any]:
        """Return the values of a column as plain types; None for numbers that JSON cannot hold."""
        return [finite_or_none(value) for value in self.table.column(name).to_pylist()]


def read_shard(
    collection: Collection, number: int, columns: tuple[str, ...], first_row: int = 0
) -> ShardExport:
    """Read the samples of a shard, without those that have no embedding.

    Args:
        collection: The collection.
        number: Number of the shard.
        columns: Names of columns of its table.
        first_row: Number of the first row of the collection that is wanted.

    Raises:
        DataError: If the collection has no embeddings of images, or a file of the shard is missing
            or damaged.
    """
    collection.require("image")
    files, start = collection.shards[number], int(collection.starts[number])
    table = files.table([*dict.fromkeys([*columns, _ERROR])])
    has_embedding = np.asarray(table.column(_ERROR).is_null())
    has_embedding[: max(0, first_row - start)] = False
    places = np.flatnonzero(has_embedding)
    chosen = table.select(list(columns)).take(places)
    return ShardExport(places + start, places, np.asarray(files.images())[places], chosen)
