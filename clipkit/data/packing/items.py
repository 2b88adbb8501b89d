"""Samples to be packed: a file with its texts, or a sample of a shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from clipkit.data.packing.images import member_extension
from clipkit.data.shards.reader import ShardReader
from clipkit.data.storage.remote import SYSTEM_ERRNOS
from clipkit.errors import SampleError


def state_of(file: Path) -> str:
    """Return size and time of change of a file; "missing" if there is none."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def read_file(file: Path) -> bytes:
    """Read an image or sound of a sample."""
    try:
        # Reading a pipe would block.
        data = file.read_bytes() if file.is_file() else None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in SYSTEM_ERRNOS:
            raise
        reason = getattr(error, "strerror", None) or error
        raise SampleError(f"cannot be read: {reason}", key=str(file)) from error
    if data is None:
        raise SampleError("no such file", key=str(file))
    return data


class Item(ABC):
    """One sample to be packed (abstract)."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Return a text that changes if the sample's bytes change, without reading them."""

    @property
    @abstractmethod
    def key(self) -> str | None:
        """Key of the sample; None if it gets a number."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the images and sounds that are read; none if they are in another file."""
        return ()

    @abstractmethod
    def members(self) -> dict[str, bytes]:
        """Return the sample's files by extension."""

    @abstractmethod
    def texts(self) -> Mapping[str, bytes]:
        """Return the sample's files, without image and sound if that is cheaper."""


@final
@dataclass(frozen=True, slots=True)
class FileItem(Item):
    """An image or a sound, and its texts.

    Args:
        file: The image or sound.
        own_texts: Texts by extension.
        sound: Sound of an image; None without one.
    """

    file: Path
    own_texts: Mapping[str, bytes]
    sound: Path | None = None

    @property
    def identity(self) -> str:
        """See `Item.identity`."""
        sound = "" if self.sound is None else f" {self.sound} {state_of(self.sound)}"
        return f"{self.file} {state_of(self.file)} {sorted(self.own_texts.items())}{sound}"

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Item.files`."""
        return (self.file,) if self.sound is None else (self.file, self.sound)

    @property
    def key(self) -> None:
        """See `Item.key`."""
        return None

    def members(self) -> dict[str, bytes]:
        """See `Item.members`."""
        contents = [(file, read_file(file)) for file in self.files]
        return {**{member_extension(*one): one[1] for one in contents}, **self.own_texts}

    def texts(self) -> Mapping[str, bytes]:
        """See `Item.texts`."""
        return self.own_texts


@final
@dataclass(frozen=True, slots=True)
class ShardItem(Item):
    """A sample of an existing shard."""

    reader: ShardReader
    fingerprint: str
    sample_id: int
    key: str

    @property
    def identity(self) -> str:
        """See `Item.identity`."""
        return f"{self.fingerprint} {self.sample_id} {self.key}"

    def members(self) -> dict[str, bytes]:
        """See `Item.members`."""
        return dict(self.reader.read(self.sample_id).members)

    def texts(self) -> Mapping[str, bytes]:
        """See `Item.texts`."""
        return self.members()
