"""Types of image and sound files by their first bytes, whatever their names say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clipkit.data.audio.formats import LEAST_HEADER_BYTES, sound_kind


@dataclass(frozen=True, slots=True)
class ImageType:
    """A type of image or sound files that can hold no script.

    Args:
        name: Name of the format in Pillow, or of sounds as ``sound_kind`` returns it.
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

SOUND_TYPES: Final = (
    ImageType("wav", "audio/wav", ".wav"),
    ImageType("flac", "audio/flac", ".flac"),
    ImageType("ogg", "audio/ogg", ".ogg"),
    ImageType("mp3", "audio/mpeg", ".mp3"),
)
"""Types of sounds that are accepted and served."""


def sound_type(content: bytes) -> ImageType | None:
    """Return the type of a sound file; None for anything else.

    Examples:
        >>> sound_type(b"fLaC" + bytes(12)).media_type
        'audio/flac'
    """
    kind = sound_kind(content[:LEAST_HEADER_BYTES])
    return next((each for each in SOUND_TYPES if each.name == kind), None)


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
