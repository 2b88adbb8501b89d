"""Columns of byte strings of one length as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from clipkit.errors import DataError


def fixed_bytes(
    column: Any, width: int
) -> tuple[UInt8[np.ndarray, "N width"], Bool[np.ndarray, " N"]]:
    """Return the bytes of a column, and which values are known.

    Args:
        column: A ``pyarrow.ChunkedArray`` of type ``fixed_size_binary[width]``.
        width: Bytes of a value.

    Returns:
        The bytes, zeros where a value is missing; and where it is not.

    Raises:
        DataError: If the column has another type.
    """
    if str(column.type) != f"fixed_size_binary[{width}]":
        raise DataError(
            f"expected a column of fixed_size_binary[{width}], got {column.type}; embed the data "
            "again"
        )
    is_known = column.is_valid().to_numpy()
    rows = np.zeros((len(column), width), dtype=np.uint8)
    values = column.drop_null().to_pylist()
    rows[is_known] = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(-1, width)
    return rows, is_known
