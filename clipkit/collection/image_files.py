"""Image files of a collection, read from the shards by their position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from clipkit.collection.collection import Collection
from clipkit.collection.member_files import CollectionFiles
from clipkit.data.storage.urls import Address


@final
class CollectionImages:
    """Reads the image files of a collection from its shards; safe for threads.

    Args:
        collection: The collection.
        addresses: Where the shards are now; None for where they were when they were embedded.

    Raises:
        DataError: If an address is a command.
    """

    def __init__(self, collection: Collection, addresses: Sequence[Address] | None = None) -> None:
        self._files = CollectionFiles(collection, "image", addresses)

    def read(self, row: int) -> bytes:
        """Return the bytes of an image file.

        Args:
            row: Row of the sample.

        Raises:
            DataError: If there is no such row, or the table of its shard is damaged.
            SampleError: If the sample has no image, or the image is larger than 64 MiB.
            ShardError: If the shard is missing, or changed since it was embedded.
        """
        return self._files.read(row)
