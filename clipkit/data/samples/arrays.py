"""NumPy files of bounded size, as members of a sample."""

from __future__ import annotations

import io
import math
from tokenize import TokenError
from typing import Final

import numpy as np

from clipkit.errors import SampleError

_HEADER_ERRORS: Final = (
    *(ValueError, EOFError, TypeError, SyntaxError, RecursionError, TokenError, MemoryError),
)
"""Errors of numpy for headers, of at most 10,000 characters, that describe no array."""


def read_array(data: bytes) -> np.ndarray:
    """Read a NumPy file (``.npy``) without unpickling anything.

    Args:
        data: Bytes of the file.

    Returns:
        A read-only array of numbers.

    Raises:
        SampleError: If it is not such a file, or has not the values that its header announces.

    Examples:
        >>> file = io.BytesIO()
        >>> np.save(file, np.arange(3))
        >>> read_array(file.getvalue())
        array([0, 1, 2])
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise SampleError(f"no NumPy file: version {version}, expected 1.0 or 2.0")
    except _HEADER_ERRORS as error:
        raise SampleError(f"no NumPy file: {error}") from None
    if dtype.kind not in "biuf":
        raise SampleError(f"no NumPy file of numbers: {dtype}")
    expected, given = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if any(type(size) is not int or size < 0 for size in shape) or expected != given:
        raise SampleError(
            f"no NumPy file: shape {shape}: expected {expected} bytes of {dtype}, got {given}"
        )
    values: np.ndarray = np.frombuffer(data, dtype, offset=file.tell())
    return values.reshape(shape[::-1]).transpose() if fortran_order else values.reshape(shape)
