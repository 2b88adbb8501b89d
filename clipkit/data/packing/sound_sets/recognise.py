"""Recognise a data set of sounds by its table, and the split that an address names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from clipkit.data.packing.sound_sets.clips import SoundSet, SplitClips
from clipkit.data.packing.sound_sets.folds import Esc50, UrbanSound8K
from clipkit.data.packing.sound_sets.fsd50k import Fsd50k
from clipkit.data.storage.urls import exists
from clipkit.errors import DataError

_SETS: Final[tuple[type[SoundSet], ...]] = (Esc50, UrbanSound8K, Fsd50k)
_SPLIT: Final = re.compile(r"[A-Za-z0-9_+-]+")
"""Names that can be those of a split, known or not."""


def is_sound_set(path: Path) -> bool:
    """Return whether ``clips_at`` reads a path."""
    if path.is_dir():
        return _kind(path) is not None
    # patterns and files that are missing, such as {0..3}.tar, are not names of splits
    is_name = _SPLIT.fullmatch(path.name) is not None
    return is_name and not path.exists() and _kind(path.parent) is not None


def is_packed_split(folder: Path, split: str) -> bool:
    """Return whether a split of a set has been packed into shards, in its folder in the set.

    Args:
        folder: Folder of a set, for which ``is_sound_set`` holds.
        split: Name of the split.

    Returns:
        False if the sounds of the split are those in the table, which ``clips_at`` reads.

    Raises:
        DataError: If the set has no such split, or a folder without shards has its name.
    """
    inside = folder / split
    if split and _has_shards(inside):
        return True
    kind = _kind(folder)
    assert kind is not None, "is_sound_set found it"
    kind(folder).split(split)
    if split and inside.exists():
        raise DataError(
            f"{inside}: expected shards (.tar) in it, or no such file or folder, as {split!r} is a "
            f"split of {kind.title}; rename it, to measure the sounds that the table lists"
        )
    return False


def set_of_split(path: Path) -> Path | None:
    """Return the folder of the set whose split an address names; None if it names none.

    Args:
        path: Such as ``ESC-50/fold1``, which is no folder, or one with the shards of this split.
    """
    if _SPLIT.fullmatch(path.name) is None or _kind(path.parent) is None:
        return None
    if exists(path) and (_kind(path) is not None or not _has_shards(path)):
        return None
    return path.parent


def clips_at(path: Path) -> SplitClips | None:
    """Return the clips of a data set of sounds, or of a split of it.

    Args:
        path: Folder of a set, for all of its clips; or, below it, a name that is no file or folder,
            which is that of a split: ``ESC-50/fold1``.

    Returns:
        The clips; None if no set is there.

    Raises:
        DataError: If the set has no such split, or its table is damaged.
    """
    if not is_sound_set(path):
        return None
    folder, split = (path, "") if path.is_dir() else (path.parent, path.name)
    kind = _kind(folder)
    assert kind is not None, "is_sound_set found it"
    return kind(folder).split(split)


def _has_shards(folder: Path) -> bool:
    return (folder / "nshards.txt").is_file() or any(folder.glob("*.tar"))


def _kind(folder: Path) -> type[SoundSet] | None:
    return next((kind for kind in _SETS if (folder / kind.marker).is_file()), None)
