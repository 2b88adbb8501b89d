"""Vectors of numbers in a ``.npy`` member: classes of a sample, as in CLIP_benchmark, and facts."""

from __future__ import annotations

import io
import math
from typing import Any, Final

import numpy as np

from clipkit.errors import SampleError, first_line

_LARGEST: Final = 2**20
_READERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_vector(data: bytes, member: str = "npy") -> np.ndarray[tuple[int], np.dtype[Any]]:
    """Return the numbers of a ``.npy`` file; nothing is unpickled.

    Args:
        data: Bytes of the file.
        member: Name of the member in messages.

    Raises:
        SampleError: If it is no vector of numbers.
    """
    file = io.BytesIO(data)
    try:
        shape, _, dtype = _READERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # NumPy parses the header as Python, which raises any error
        reason = first_line(error)
        raise SampleError(f"member {member!r}: expected a .npy file, got {reason}") from None
    content = file.read()
    is_vector = len(shape) == 1 and 0 < shape[0] <= _LARGEST and dtype.kind in "biuf"
    if not is_vector or len(content) != math.prod(shape) * dtype.itemsize:
        raise SampleError(
            f"member {member!r}: expected a vector of numbers, got {dtype} of "
            f"shape {shape} in {len(content)} bytes"
        )
    return np.frombuffer(content, dtype)


def read_class_vector(data: bytes, member: str = "npy") -> tuple[list[int], int]:
    """Return the classes that apply to a sample, and the number of classes.

    Args:
        data: Bytes of a ``.npy`` file; nothing is unpickled.
        member: Name of the member in messages.

    Returns:
        Positions of the ones, and the length of the vector.

    Raises:
        SampleError: If it is no vector of zeros and ones.

    Examples:
        >>> file = io.BytesIO()
        >>> np.save(file, np.array([0, 1, 1, 0]))
        >>> read_class_vector(file.getvalue())
        ([1, 2], 4)
    """
    values = read_vector(data, member)
    if not ((values == 0) | (values == 1)).all():
        odd = values[(values != 0) & (values != 1)][0]
        raise SampleError(f"member {member!r}: expected a 0 or 1 for each class, got {odd}")
    return [int(number) for number in np.flatnonzero(values)], len(values)
