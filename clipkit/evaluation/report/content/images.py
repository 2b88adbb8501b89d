"""Small images inside the page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small image inside the page.

    Args:
        data: Bytes of an image file.
        caption: Description of the image, used as its alternative text.
        media_type: Media type of ``data``.
    """

    data: bytes
    caption: str
    media_type: str = "image/webp"
