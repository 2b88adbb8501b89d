"""Check images of strangers before they are decoded; sizes of thumbnails."""

from __future__ import annotations

from typing import Final

from PIL import Image

from clipkit.data.images.formats import open_image, orientation_of
from clipkit.errors import SampleError
from clipkit.search.serving.images.image_types import IMAGE_TYPES, image_type

THUMBNAIL_SIZES: Final = (64, 128, 256, 512, 1024)
"""Longer sides of thumbnails, in pixels; few, so that the kept ones serve many requests."""
_OTHER_NAMES: Final = {"MPO": "JPEG"}  # a JPEG that holds further ones


def checked_image(content: bytes, most_pixels: int) -> Image.Image:
    """Open an image file of a known type and check its size; pixels are not decoded.

    Raises:
        SampleError: If it is not of ``IMAGE_TYPES``, its header is damaged, or it is too large.
    """
    kind = image_type(content)
    if kind is None:
        names = ", ".join(each.name for each in IMAGE_TYPES)
        raise SampleError(f"image: expected a file of type {names}, got one of no such type")
    image = open_image(content, most_pixels)
    found = _OTHER_NAMES.get(str(image.format), image.format)
    if found != kind.name:
        raise SampleError(f"image: expected {kind.name} as its first bytes say, got {found}")
    return image


def upright_size(image: Image.Image, content: bytes) -> tuple[int, int]:
    """Return width and height of an image as it is shown, in pixels."""
    turn = orientation_of(image, content)
    return (image.height, image.width) if turn and turn.swaps else image.size


def thumbnail_size(wanted: int) -> int:
    """Return the smallest of ``THUMBNAIL_SIZES`` that is at least a size, or the largest.

    Examples:
        >>> thumbnail_size(200), thumbnail_size(9999)
        (256, 1024)
    """
    return next((size for size in THUMBNAIL_SIZES if size >= wanted), THUMBNAIL_SIZES[-1])
