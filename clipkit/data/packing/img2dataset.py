"""Output of img2dataset or audio2dataset as files: each with a text and a JSON next to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from clipkit.data.audio.formats import SOUND_SUFFIXES
from clipkit.data.packing.images import IMAGE_SUFFIXES, member_extension
from clipkit.data.packing.items import Item, read_file, state_of
from clipkit.errors import SampleError

STATS_SUFFIX: Final = "_stats.json"
"""Suffix of the file with which both programs close each of their shards."""
_TEXT_SUFFIXES: Final = (".txt", ".json")


def items_of_downloads(folder: Path) -> list[Item]:
    """Return what img2dataset or audio2dataset wrote as files; none if it is not their output.

    Folders are ``00000``, ``00001``, ..., each with ``00000_stats.json`` next to it. Downloads
    that failed have no image or sound; they are listed only in Parquet files.
    """
    parts = [
        folder / file.name.removesuffix(STATS_SUFFIX)
        for file in sorted(folder.glob(f"[!.]*{STATS_SUFFIX}"))
    ]
    files = [file for part in parts if part.is_dir() for file in sorted(part.iterdir())]
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    sounds = [file for file in files if file.suffix.lower() in SOUND_SUFFIXES]
    return [DownloadedItem(file) for file in images or sounds]


@final
@dataclass(frozen=True, slots=True)
class DownloadedItem(Item):
    """An image or a sound with ``.txt`` and ``.json`` next to it."""

    file: Path

    @property
    def identity(self) -> str:
        """See ``Item.identity``."""
        return f"{self.file} {state_of(self.file)} {sorted(self.texts().items())}"

    @property
    def key(self) -> str:
        """See ``Item.key``."""
        return self.file.stem

    @property
    def files(self) -> tuple[Path, ...]:
        """See ``Item.files``."""
        return (self.file,)

    def members(self) -> dict[str, bytes]:
        """See ``Item.members``."""
        data = read_file(self.file)
        return {member_extension(self.file, data): data, **self.texts()}

    def texts(self) -> Mapping[str, bytes]:
        """See ``Item.texts``."""
        found: dict[str, bytes] = {}
        for suffix in _TEXT_SUFFIXES:
            text = self.file.with_suffix(suffix)
            try:
                found[suffix.lstrip(".")] = text.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise SampleError(f"cannot be read: {error.strerror}", key=str(text)) from error
        return found
