"""Which rows of a collection have an embedding."""

from __future__ import annotations

from clipkit.collection import Collection
from clipkit.search.engine import RowMask


def usable_rows(collection: Collection, modality: str = "image") -> RowMask:
    """Return which rows have an embedding: those without an error.

    Args:
        collection: The collection.
        modality: "image", or the name of a further modality.

    Raises:
        DataError: If a table is missing or damaged.
    """
    return collection.embedded_rows(modality)
