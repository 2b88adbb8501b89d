"""Types of image files by their first bytes, whatever their names say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ImageType:
    """A type of image files that can hold no script.

    Args:
        name: Name of the format in Pillow.
        media_type: Value of ``Content-Type``.
        suffix: Suffix of file names.
    """

    name: str
    media_type: str
    suffix: str


_JPEG: Final = ImageType("JPEG", "image/jpeg", ".jpg")
_PNG: Final = ImageType("PNG", "image/png", ".png")
_GIF: Final = ImageType("GIF", "image/gif", ".gif")
_WEBP: Final = ImageType("WEBP", "image/webp", ".webp")
_BMP: Final = ImageType("BMP", "image/bmp", ".bmp")
_TIFF: Final = ImageType("TIFF", "image/tiff", ".tif")

_STARTS: Final = (
    (b"\xff\xd8\xff", _JPEG),
    (b"\x89PNG\r\n\x1a\n", _PNG),
    (b"GIF87a", _GIF),
    (b"GIF89a", _GIF),
    (b"BM", _BMP),
    (b"II*\0", _TIFF),
    (b"MM\0*", _TIFF),
)

IMAGE_TYPES: Final = (_JPEG, _PNG, _GIF, _WEBP, _BMP, _TIFF)
"""Types that are accepted and served. SVG is not among them: it can hold scripts."""


def image_type(content: bytes) -> ImageType | None:
    r"""Return the type of an image file; None for anything else.

    Args:
        content: The file, or at least its first 16 bytes.

    Examples:
        >>> image_type(b"GIF89a...").media_type, image_type(b"<svg></svg>")
        ('image/gif', None)
    """
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _WEBP
    return next((kind for start, kind in _STARTS if content.startswith(start)), None)
