"""Key, caption, class and size of results, read from the tables in parts that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

from clipkit.collection import Collection
from clipkit.collection.shard_tables import ROW_GROUP_ROWS
from clipkit.search.records import class_name_of
from clipkit.search.serving.kept import LeastRecentlyUsed

_COLUMNS: Final = ("key", "captions", "label", "width_pixels", "height_pixels")
_IMAGE: Final = "image_type"


@final
class KeptRecords:
    """Reads what a page shows of results; safe for threads.

    The 50 results of a query are in 50 different places of the tables. A table is decoded in parts
    of some thousand rows, and the last used parts stay in memory, where they take some 70 bytes per
    image.

    Args:
        collection: The collection.
        most_bytes: Memory for the parts.
    """

    def __init__(self, collection: Collection, most_bytes: int) -> None:
        self._collection = collection
        self._sounds = tuple(f"{name}_type" for name in collection.info.modalities)
        self._read = (*_COLUMNS, _IMAGE, *self._sounds)
        self._parts: LeastRecentlyUsed[tuple[int, int], tuple[int, Any]] = LeastRecentlyUsed(
            most_bytes, lambda part: int(part[1].nbytes)
        )

    def read(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the values of some rows, in their order.

        Returns:
            For each row ``row``, ``key``, ``captions``, ``label``, ``class_name``,
            ``width_pixels``, ``height_pixels``, ``has_image`` and ``has_sound``.

        Raises:
            DataError: If there is no such row, or a table is missing or damaged.
        """
        return [self._record(row) for row in rows]

    def _record(self, row: int) -> dict[str, Any]:
        shard, position = self._collection.locate(row)
        part = shard, position // ROW_GROUP_ROWS
        found = self._parts.get(part)
        if found is None:
            found = self._collection.shards[shard].row_group(self._read, position)
            self._parts.put(part, found)
        first, table = found
        if not first <= position < first + len(table):  # a file with other parts
            first, table = self._collection.shards[shard].row_group(self._read, position)
        values = {name: table.column(name)[position - first].as_py() for name in self._read}
        return {
            "row": row,
            "class_name": class_name_of(self._collection.info, values["label"]),
            **{name: values[name] for name in _COLUMNS},
            "has_image": values[_IMAGE] is not None,
            "has_sound": any(values[name] is not None for name in self._sounds),
        }
