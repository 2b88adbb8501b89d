"""Which rows of a collection have an embedding."""

from __future__ import annotations

import numpy as np

from clipkit.collection import Collection
from clipkit.search.engine import RowMask


def usable_rows(collection: Collection) -> RowMask:
    """Return which rows have an embedding: those without an error.

    Raises:
        DataError: If a table is missing or damaged.
    """
    usable = np.zeros(len(collection), dtype=np.bool_)
    for start, files in zip(collection.starts, collection.shards, strict=False):
        errors = files.table(["error"]).column("error")
        usable[start : start + len(errors)] = np.asarray(errors.is_null())
    return usable
