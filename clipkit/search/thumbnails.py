"""Small JPEGs of image files."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image

from clipkit.data.images.formats import (
    DEFAULT_MAX_PIXELS,
    WHITE,
    image_faults,
    open_image,
    orientation_of,
    to_rgb,
)
from clipkit.errors import check_range

MAX_SIDE_PIXELS: Final = 2048
_QUALITY: Final = 85


def small_jpeg(content: bytes, size_pixels: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> bytes:
    """Reduce an image file to an upright JPEG, on a white background.

    Args:
        content: Content of the file, of any format that Pillow reads.
        size_pixels: Length of the longer side; smaller images keep their size.
        max_pixels: Largest number of pixels; larger images are refused before they are decoded.

    Raises:
        ConfigError: If ``size_pixels`` is out of range.
        SampleError: If the image cannot be decoded, or is too large.

    Examples:
        >>> content = small_jpeg(Path("dog.jpg").read_bytes(), size_pixels=20)
        >>> Image.open(io.BytesIO(content)).size
        (20, 16)
    """
    check_range("size_pixels", size_pixels, 1, MAX_SIDE_PIXELS)
    image = open_image(content, max_pixels)
    turn = orientation_of(image, content)
    with image_faults("image is truncated or damaged"):
        image.draft("RGB", (size_pixels, size_pixels))  # only JPEGs: decodes at a lower scale
    pixels = to_rgb(image, WHITE)
    pixels = pixels.transpose(turn.method) if turn else pixels
    if max(pixels.size) > size_pixels:
        pixels.thumbnail((size_pixels, size_pixels), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    pixels.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
