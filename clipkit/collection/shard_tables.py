"""Parts of the table of an embedded shard: its columns, its groups of rows, its footer."""

from __future__ import annotations

import functools
import os
from typing import Any, Final

import numpy as np
from jaxtyping import Int64

from clipkit.collection.arrow import arrow, arrow_type
from clipkit.errors import DataError

ROW_GROUP_ROWS: Final = 1024
"""Rows of a table that are read together; few, so that one row is read without the others."""
_KEPT_FOOTERS: Final = 256

Stamp = tuple[int, int, int]

COLUMNS: Final = {
    "key": "string",  # name of the sample
    "captions": "list<string>",
    "label": "int64",  # number of the class; null if it has none
    "image_type": "string",  # extension of the image, such as "jpg"
    "image_offset_bytes": "int64",  # position of the image's contents in the tar
    "image_size_bytes": "int64",
    "width_pixels": "int32",
    "height_pixels": "int32",
    "image_sha256": "fixed_size_binary[32]",  # of the image's file
    "image_signature": "fixed_size_binary[40]",  # perceptual_hash.image_signature, "<u8"
    "error": "string",  # why the sample has no embedding, which is zeros then; null otherwise
}
"""Columns of every table, with their Arrow types.

The fields of ``CollectionInfo.columns`` and ``CollectionInfo.modality_columns`` follow.
All may be null but ``key`` and ``captions``.
"""


def stamp_of(status: os.stat_result) -> Stamp:
    """Return what differs between two states of a file."""
    return status.st_ino, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=_KEPT_FOOTERS)
def footer(path: str, stamp: Stamp) -> Any:
    """Read the footer of a table in a state of it, which takes longer than to read some rows."""
    del stamp  # another state of the file is another entry
    return arrow().parquet.read_metadata(path)


def group_starts(file: Any) -> Int64[np.ndarray, " groups+1"]:
    """Return the first row of each part of a table, and the number of all rows."""
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def typed(table: Any, path: str) -> Any:
    """Return a table whose columns have the types of ``COLUMNS``.

    Raises:
        DataError: If a column cannot be converted, or text is no UTF-8.
    """
    pa = arrow()
    for place, field in enumerate(table.schema):
        if field.name not in COLUMNS:
            continue
        kind = arrow_type(COLUMNS[field.name])
        try:
            table = table.set_column(place, field.with_type(kind), table.column(place).cast(kind))
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: column {field.name}: expected {COLUMNS[field.name]}, got {field.type}; "
                "embed the shard again"
            ) from error
    table.validate(full=True)  # text that is no UTF-8 would fail where it is read
    return table
