"""Find the images of a folder that the installed Pillow can read, and count other files."""

from __future__ import annotations

import io
import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image

from clipkit.data.images.formats import IMAGE_EXTENSIONS
from clipkit.errors import SampleError

IMAGE_SUFFIXES: Final = frozenset(f".{extension}" for extension in IMAGE_EXTENSIONS)
"""Extensions that every reader of shards treats as images."""

_OTHERS_DO_IT: Final = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow recognises, but can decode only with other programs."""
_GENERIC: Final = "image"
_SHOWN: Final = 6


@dataclass(slots=True)
class FoundImages:
    """Result of a search through folders.

    Args:
        images: Image files, by path.
        skipped: Number of other files by kind.
    """

    images: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def kinds_of(skipped: Counter[str]) -> str:
    """Format kinds of files for a message, most frequent first."""
    kinds = [f"{count} {kind}" for kind, count in skipped.most_common()]
    more = ["and others"] if len(kinds) > _SHOWN else []
    return ", ".join([*kinds[:_SHOWN], *more])


def find_images(folder: Path) -> FoundImages:
    """Search a folder and its subfolders, except hidden ones.

    Files with the suffix of an image format are images; others are images if their first bytes are
    those of an image format.
    """
    found = FoundImages()
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found.skipped["links to folders"] += len(links)
        folders[:] = [name for name in folders if not name.startswith(".") and name not in links]
        for name in names:
            file = Path(place) / name
            if name.startswith("."):
                found.skipped["hidden"] += 1
            elif file.suffix.lower() in _readable_suffixes() or _is_image(file):
                found.images.append(file)
            else:
                found.skipped[file.suffix.lower() or "without a suffix"] += 1
    found.skipped = +found.skipped
    found.images.sort()
    return found


def visible_shards(folder: Path) -> list[Path]:
    """List the tars in a folder and its subfolders, except hidden ones, by path.

    The cache of packed tables is such a hidden folder: its shards belong to an earlier state of
    the table.
    """
    return [
        tar
        for tar in sorted(folder.rglob("*.tar"))
        if not any(part.startswith(".") for part in tar.relative_to(folder).parts)
    ]


def member_extension(image: Path, data: bytes) -> str:
    """Return the extension under which readers of shards find an image."""
    if (suffix := image.suffix.lower()) in IMAGE_SUFFIXES:
        return suffix.lstrip(".")
    kind = _format_of(io.BytesIO(data))
    if kind is None:
        raise SampleError("not an image that the installed Pillow can read", key=str(image))
    extension = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}.get(kind, kind.lower())
    return extension if extension in IMAGE_EXTENSIONS else _GENERIC


def _is_image(file: Path) -> bool:
    try:
        if not file.is_file():  # opening a named pipe would block
            return False
        with file.open("rb") as stream:
            return _format_of(stream) is not None
    except OSError:
        return False


def _format_of(stream: BinaryIO) -> str | None:
    """Return Pillow's name of the format; None if Pillow has no decoder for it."""
    try:
        with Image.open(stream) as image:
            kind = image.format
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return _GENERIC  # too large, which decoding reports with the name
    except Exception:  # Pillow's plugins raise many types for other files
        return None
    return None if kind in _OTHERS_DO_IT else kind


@cache
def _readable_suffixes() -> frozenset[str]:
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(s for s, kind in known if kind in Image.OPEN and kind not in _OTHERS_DO_IT)
