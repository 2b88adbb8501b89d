"""Output of img2dataset as files: images with a text and a JSON next to each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from clipkit.data.packing.images import IMAGE_SUFFIXES, member_extension
from clipkit.data.packing.items import Item, read_image_file, state_of
from clipkit.errors import SampleError

STATS_SUFFIX: Final = "_stats.json"
"""Suffix of the file with which img2dataset closes each of its shards."""
_TEXT_SUFFIXES: Final = (".txt", ".json")


def items_of_downloads(folder: Path) -> list[Item]:
    """Return the images that img2dataset wrote as files; none if the folder is not its output.

    Its folders are ``00000``, ``00001``, ..., each with ``00000_stats.json`` next to it. Downloads
    that failed have no image; they are listed only in its Parquet files.
    """
    parts = [
        folder / file.name.removesuffix(STATS_SUFFIX)
        for file in sorted(folder.glob(f"[!.]*{STATS_SUFFIX}"))
    ]
    return [
        DownloadedItem(file)
        for part in parts
        if part.is_dir()
        for file in sorted(part.iterdir())
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]


@final
@dataclass(frozen=True, slots=True)
class DownloadedItem(Item):
    """An image file with ``.txt`` and ``.json`` next to it."""

    image: Path

    @property
    def identity(self) -> str:
        """See ``Item.identity``."""
        return f"{self.image} {state_of(self.image)} {sorted(self.texts().items())}"

    @property
    def key(self) -> str:
        """See ``Item.key``."""
        return self.image.stem

    @property
    def files(self) -> tuple[Path, ...]:
        """See ``Item.files``."""
        return (self.image,)

    def members(self) -> dict[str, bytes]:
        """See ``Item.members``."""
        data = read_image_file(self.image)
        return {member_extension(self.image, data): data, **self.texts()}

    def texts(self) -> Mapping[str, bytes]:
        """See ``Item.texts``."""
        found: dict[str, bytes] = {}
        for suffix in _TEXT_SUFFIXES:
            file = self.image.with_suffix(suffix)
            try:
                found[suffix.lstrip(".")] = file.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise SampleError(f"cannot be read: {error.strerror}", key=str(file)) from error
        return found
