"""Decode any image file to upright RGB pixels, or raise a ``SampleError`` with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from clipkit.errors import ConfigError, SampleError

RGB = UInt8[Tensor, "3 H W"]
"""Pixels of an image, 0 to 255."""
Color = tuple[int, int, int]
WHITE: Final[Color] = (255, 255, 255)
IMAGE_EXTENSIONS: Final = (
    "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "image",
)  # fmt: skip
"""Extensions of the members that are images, in the order in which they are preferred."""
DEFAULT_MAX_PIXELS: Final = 89_478_485
"""Pillow's own limit against decompression bombs: a gigabyte of RGBA, divided by 12."""

_PROGRAMS: Final = frozenset({"EPS", "WMF", "IPTC"})
"""Formats whose files are programs: Pillow would run Ghostscript, or have Windows play them. An
IPTC file may hold one of them, or any other image."""

ORIENTATION_TAG: Final = 0x0112
EXIF_START: Final = b"Exif\0\0"
_START_OF_SCAN: Final = 0xDA
_PILLOW_FAULTS: Final = (
    *(Image.DecompressionBombError, Image.DecompressionBombWarning, struct.error, zlib.error),
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError),
    *(AttributeError, RuntimeError),
)
"""Errors of Pillow's readers for damaged files, without MemoryError, which no sample causes."""


def image_member(members: Mapping[str, bytes]) -> bytes:
    """Return the bytes of a sample's image: the first of ``IMAGE_EXTENSIONS`` that it has."""
    return members[image_extension(members)]


def image_extension(members: Collection[str]) -> str:
    """Return the extension of a sample's image among those of its members."""
    for extension in IMAGE_EXTENSIONS:
        if extension in members:
            return extension
    wanted = ", ".join(IMAGE_EXTENSIONS)
    raise SampleError(f"no image: expected a member .{wanted}; got {', '.join(members)}")


class Orientation(NamedTuple):
    """Change from stored to upright pixels: swap the axes or not, then mirror."""

    method: Image.Transpose  # argument of Pillow's ``transpose``
    swaps: bool  # whether width and height are exchanged
    mirrors_x: bool  # whether the stored x axis is opposite to the upright axis that it becomes
    mirrors_y: bool  # whether the stored y axis is opposite to the upright axis that it becomes


ORIENTATIONS: Final = {
    2: Orientation(Image.Transpose.FLIP_LEFT_RIGHT, False, True, False),
    3: Orientation(Image.Transpose.ROTATE_180, False, True, True),
    4: Orientation(Image.Transpose.FLIP_TOP_BOTTOM, False, False, True),
    5: Orientation(Image.Transpose.TRANSPOSE, True, False, False),
    6: Orientation(Image.Transpose.ROTATE_270, True, False, True),
    7: Orientation(Image.Transpose.TRANSVERSE, True, True, True),
    8: Orientation(Image.Transpose.ROTATE_90, True, True, False),
}
"""Orientation by the value of the EXIF tag; any other value leaves the stored pixels."""


@contextmanager
def image_faults(what: str) -> Iterator[None]:
    """Convert errors of Pillow for damaged data to a ``SampleError`` that starts with ``what``."""
    try:
        yield
    except SampleError:
        raise
    except _PILLOW_FAULTS as error:
        raise SampleError(f"{what}: {error or type(error).__name__}") from error


def check_max_pixels(max_pixels: int) -> int:
    """Check the option ``max_pixels``."""
    limit = None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS
    if max_pixels < 1 or (limit is not None and max_pixels > limit):
        raise ConfigError(
            f"max_pixels: expected between 1 and {limit}, got {max_pixels}; for larger images "
            f"raise PIL.Image.MAX_IMAGE_PIXELS first"
        )
    return max_pixels


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse images without pixels, and those that would fill the memory."""
    if width < 1 or height < 1:
        raise SampleError(f"image has no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise SampleError(
            f"image of {width} x {height} pixels is above the limit of {max_pixels} (max_pixels)"
        )


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header; pixels are decoded when they are read."""
    if not data:
        raise SampleError("image is empty (0 bytes)")
    with image_faults("image header cannot be read"):
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            raise SampleError(f"not an image of a known format; starts {data[:8]!r}") from None
        if image.format in _PROGRAMS:
            raise SampleError(f"{image.format} files are programs, which are not run; convert it")
        check_size(image.width, image.height, max_pixels)
        return image


def jpeg_header_end(data: bytes) -> int:
    """Find where the compressed pixels of a JPEG begin, in bytes.

    Segments before them (colour profiles, camera data, EXIF) may have any total length and order.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == _START_OF_SCAN:
            return position
        if marker == 0xFF:  # padding before a marker
            position += 1
        elif marker < 0xC0 or 0xD0 <= marker <= 0xD9:  # has no length: not expected in a header
            break
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return len(data)


def orientation_of(image: Image.Image, data: bytes | None = None) -> Orientation | None:
    """Return the orientation in EXIF; None if the pixels are stored upright.

    Args:
        image: The image.
        data: Bytes of its file, which save time for a PNG; None if they are unknown.
    """
    # Pillow would decode an entire PNG to look for a tag that nearly no PNG has.
    if image.format == "PNG" and data and b"eXIf" not in data and b"Raw profile" not in data:
        return None
    if image.format in {"JPEG", "MPO", "WEBP"} and "exif" not in image.info:
        return None
    # Pillow turns TIFFs itself, including the size.
    if image.format == "TIFF":
        return None
    try:
        return ORIENTATIONS.get(image.getexif().get(ORIENTATION_TAG, 1))
    except _PILLOW_FAULTS:
        # Unreadable camera data do not make the image unreadable.
        return None


def to_rgb(image: Image.Image, background: Color | None) -> Image.Image:
    """Decode to 8 bits of red, green and blue.

    The first frame of an animation is used. Pixels of 16 bits are scaled, where ``convert("RGB")``
    clips everything above 255.
    """
    with image_faults("image is truncated or damaged"):
        image.load()
        if image.mode == "RGB" and "transparency" not in image.info:
            return image
        if image.mode.startswith("I"):
            levels = np.asarray(image).astype(np.float64) / 257.0
            image = Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
        if image.mode == "F":
            raise SampleError("image of 32-bit floats: the range of its pixels is undefined")
        if background is None or not image.has_transparency_data:
            return image.convert("RGB")
        drawing = image.convert("RGBA")
        canvas = Image.new("RGB", drawing.size, background)
        canvas.paste(drawing, mask=drawing)
        return canvas
