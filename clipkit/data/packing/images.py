"""Find the images of a folder that the installed Pillow can read, or its sounds."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image

from clipkit.data.audio.formats import (
    LEAST_HEADER_BYTES,
    SOUND_EXTENSIONS,
    SOUND_SUFFIXES,
    sound_kind,
)
from clipkit.data.images.formats import IMAGE_EXTENSIONS
from clipkit.data.packing.roots import is_inside
from clipkit.errors import SampleError

IMAGE_SUFFIXES: Final = frozenset(f".{extension}" for extension in IMAGE_EXTENSIONS)
"""Extensions that every reader of shards treats as images."""

_OTHERS_DO_IT: Final = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow recognises, but can decode only with other programs."""
_GENERIC: Final = "image"
_SHOWN: Final = 6


@dataclass(slots=True)
class FoundFiles:
    """Result of a search through folders.

    Args:
        files: Files of the kind that was searched for, by path.
        sounds: Sounds of images, by the path of the image: those of the same name.
        skipped: Number of other files by kind.
    """

    files: list[Path] = field(default_factory=list)
    sounds: dict[Path, Path] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)


def kinds_of(skipped: Counter[str]) -> str:
    """Format kinds of files for a message, most frequent first."""
    kinds = [f"{count} {kind}" for kind, count in skipped.most_common()]
    more = ["and others"] if len(kinds) > _SHOWN else []
    return ", ".join([*kinds[:_SHOWN], *more])


def find_images(folder: Path) -> FoundFiles:
    """Search a folder and its subfolders, except hidden ones.

    Files with the suffix of an image format are images; others are images if their first bytes are
    those of an image format.
    """
    return _find(
        folder, lambda file: file.suffix.lower() in _readable_suffixes() or _is_image(file)
    )


def find_sounds(folder: Path) -> FoundFiles:
    """Search a folder and its subfolders, except hidden ones, for sounds.

    Files with the suffix of a sound format are sounds; others are sounds if their first bytes are
    those of one.
    """
    return _find(folder, lambda file: file.suffix.lower() in SOUND_SUFFIXES or _is_sound(file))


def find_images_or_sounds(
    folders: Sequence[Path], root: Path | None
) -> tuple[str, list[FoundFiles]]:
    """Search folders for images, or for sounds if none of them contains an image.

    Next to images, a sound belongs to the image of its name, such as ``1.wav`` to ``1.jpg``. Of
    several, the first kind of ``SOUND_EXTENSIONS`` is taken. Others are skipped, as kinds of their
    own, and so are sounds that cannot be read: the image is there without them.

    Args:
        folders: Folders to search.
        root: Folder that links next to images may not lead out of; None to allow it.

    Returns:
        ``"images"`` or ``"sounds"``, or both words if there is none, and the files of each folder.
    """
    images = [find_images(folder) for folder in folders]
    if any(found.files for found in images):
        for folder, found in zip(folders, images, strict=True):
            if found.skipped.keys() & SOUND_SUFFIXES:
                _add_sounds(folder, found, root)
        return "images", images
    sounds = [find_sounds(folder) for folder in folders]
    if any(found.files for found in sounds):
        return "sounds", sounds
    return "images or sounds", images


def _add_sounds(folder: Path, found: FoundFiles, root: Path | None) -> None:
    """Add the sounds that have the name of an image, and count the others."""
    order = [f".{extension}" for extension in SOUND_EXTENSIONS]
    sounds = _find(folder, lambda file: file.suffix.lower() in SOUND_SUFFIXES).files
    found.skipped -= Counter(sound.suffix.lower() for sound in sounds)
    images = {image.with_suffix("") for image in found.files}
    of_name: dict[Path, Path] = {}
    for sound in sorted(sounds, key=lambda file: (order.index(file.suffix.lower()), file)):
        name = sound.with_suffix("")
        if name not in images:
            found.skipped["sounds without an image of the same name"] += 1
        elif (reason := _why_not(sound, root)) is not None:
            found.skipped[reason] += 1
        elif name in of_name:
            found.skipped["further sounds of an image"] += 1
        else:
            of_name[name] = sound
    of_images = {image: of_name.get(image.with_suffix("")) for image in found.files}
    found.sounds = {image: sound for image, sound in of_images.items() if sound is not None}


def _why_not(sound: Path, root: Path | None) -> str | None:
    """Return the kind of a sound that is not taken: no readable file, or outside of a folder."""
    try:
        if not sound.is_file() or not os.access(sound, os.R_OK):
            return "sounds that cannot be read"
    except OSError:  # such as a link into a folder that may not be entered
        return "sounds that cannot be read"
    is_outside = root is not None and sound.is_symlink() and not is_inside(sound, root)
    return "sounds outside of the folder" if is_outside else None


def _find(folder: Path, is_wanted: Callable[[Path], bool]) -> FoundFiles:
    found = FoundFiles()
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found.skipped["links to folders"] += len(links)
        folders[:] = [name for name in folders if not name.startswith(".") and name not in links]
        for name in names:
            file = Path(place) / name
            if name.startswith("."):
                found.skipped["hidden"] += 1
            elif is_wanted(file):
                found.files.append(file)
            else:
                found.skipped[file.suffix.lower() or "without a suffix"] += 1
    found.skipped = +found.skipped
    found.files.sort()
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


def member_extension(file: Path, data: bytes) -> str:
    """Return the extension under which readers of shards find an image or a sound."""
    if (suffix := file.suffix.lower()) in IMAGE_SUFFIXES | SOUND_SUFFIXES:
        return suffix.lstrip(".")
    if (sound := sound_kind(data[:LEAST_HEADER_BYTES])) is not None:
        return sound
    kind = _format_of(io.BytesIO(data))
    if kind is None:
        raise SampleError(
            f"not an image that the installed Pillow can read, nor a sound "
            f"({', '.join(SOUND_EXTENSIONS)})",
            key=str(file),
        )
    extension = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}.get(kind, kind.lower())
    return extension if extension in IMAGE_EXTENSIONS else _GENERIC


def _is_image(file: Path) -> bool:
    # Known names are believed: a folder of sounds is not opened file by file.
    return file.suffix.lower() not in SOUND_SUFFIXES and _starts_as(
        file, lambda stream: _format_of(stream) is not None
    )


def _is_sound(file: Path) -> bool:
    return _starts_as(file, lambda stream: sound_kind(stream.read(LEAST_HEADER_BYTES)) is not None)


def _starts_as(file: Path, is_wanted: Callable[[BinaryIO], bool]) -> bool:
    try:
        if not file.is_file():  # opening a named pipe would block
            return False
        with file.open("rb") as stream:
            return is_wanted(stream)
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
