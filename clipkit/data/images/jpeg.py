"""Decode JPEGs with simplejpeg, at full size or at a reduced scale."""

from __future__ import annotations

import threading
from math import ceil
from typing import Final

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from clipkit.data.images.formats import (
    EXIF_START,
    check_size,
    jpeg_header_end,
    open_image,
    orientation_of,
)

_MAX_KEPT_BYTES: Final = 2**26
_OF_THREAD: Final = threading.local()


def plain_jpeg_size(data: bytes, max_pixels: int) -> tuple[int, int] | None:
    """Return width and height of a JPEG; None if it is turned or not of RGB or grey pixels."""
    has_exif = data.find(EXIF_START, 0, jpeg_header_end(data)) != -1
    if has_exif and orientation_of(open_image(data, max_pixels), data):
        return None
    height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    if colors not in {"RGB", "YCbCr", "Gray"}:
        return None
    check_size(width, height, max_pixels)
    return width, height


def decode_jpeg(
    data: bytes, num_pixels: int, least: tuple[int, int]
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Decode a JPEG at the smallest scale of at least ``least`` (width, height).

    The result is in memory that this thread's next call overwrites: new memory for each image would
    cost a third of the time in page faults, and fragment the memory.
    """
    buffer = None
    if 3 * num_pixels <= _MAX_KEPT_BYTES:
        buffer = getattr(_OF_THREAD, "buffer", None)
        if buffer is None or len(buffer) < 3 * num_pixels:
            buffer = _OF_THREAD.buffer = np.empty(3 * num_pixels, dtype=np.uint8)
    # Scales between 1/2 and 1 have no vector code: they take longer than the full size.
    pixels: UInt8[np.ndarray, "rows columns 3"] = simplejpeg.decode_jpeg(
        data, min_width=least[0], min_height=least[1], min_factor=2, buffer=buffer
    )
    return pixels


def scale_of(pixels: UInt8[np.ndarray, "rows columns 3"], width: int, height: int) -> float:
    """Return the scale at which a JPEG was decoded."""
    return next(
        eighths / 8
        for eighths in (8, 4, 3, 2, 1)
        if pixels.shape[:2] == (ceil(height * eighths / 8), ceil(width * eighths / 8))
    )
