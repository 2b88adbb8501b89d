"""Files in a folder of a disk or of a store, by their names."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast, final

import torch

from clipkit.addresses import is_local, without_scheme
from clipkit.atomic_files import new_file
from clipkit.errors import CheckpointError, first_line
from clipkit.models.files.byte_ranges import cut_ranges, merge_ranges
from clipkit.models.files.state_dicts import read_file, save_plain

_CHUNK_BYTES: Final = 1 << 24
_GAP_BYTES: Final = 1 << 16
"""Bytes that a store sends sooner than it answers a further request."""


@final
class Folder:
    """A folder at a path, or at a URL of fsspec.

    Errors of stores, which have no common base, are raised as ``OSError``.

    Args:
        place: Path or URL.
    """

    def __init__(self, place: Path | str) -> None:
        self.place = str(place).rstrip("/") or "/"
        self.is_store = not is_local(self.place)
        self._system: Any = None
        self._root = without_scheme(self.place)
        if self.is_store:
            import fsspec  # seconds, which a folder of a disk does not need

            self._system, self._root = fsspec.url_to_fs(self.place)
            self._system.invalidate_cache()  # listings from before other processes wrote

    def __str__(self) -> str:
        return self.place

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        if not self.is_store:
            return self._path(name).is_file()
        with store_errors():
            try:  # isfile of fsspec takes any error for "no"
                return bool(self._system.info(self._inside(name))["type"] == "file")
            except FileNotFoundError:
                return False

    def sizes(self) -> dict[str, int]:
        """Return the length in bytes of every file, also of those in inner folders, by name."""
        if not self.is_store:
            root = Path(self._root)
            files = [path for path in root.rglob("*") if path.is_file()]
            return {str(path.relative_to(root)): path.stat().st_size for path in files}
        with store_errors():
            found: dict[str, Any] = self._system.find(self._root, detail=True)
        start = len(self._root.rstrip("/")) + 1
        return {path[start:]: int(info["size"]) for path, info in found.items()}

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return ranges of bytes of a file, each from its first byte up to before its last.

        A store is asked once for ranges that are near to each other.
        """
        if not self.is_store:
            with self._path(name).open("rb") as file:
                return [_read_range(file, *span) for span in ranges]
        merged = merge_ranges(ranges, _GAP_BYTES, _CHUNK_BYTES)
        starts, ends = [start for start, _ in merged], [end for _, end in merged]
        with store_errors():
            paths = [self._inside(name)] * len(merged)
            read = self._system.cat_ranges(paths, starts, ends, on_error="raise")
        return cut_ranges(ranges, merged, [bytes(data) for data in read])

    def digest(self, name: str) -> tuple[int, int]:
        """Return length and CRC-32 of a file."""
        length, checksum = 0, 0
        with store_errors(), self._open(name) as file:
            while chunk := file.read(_CHUNK_BYTES):
                length, checksum = length + len(chunk), zlib.crc32(chunk, checksum)
        return length, checksum

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file; on a disk, wait at the end until its content is there."""
        if not self.is_store:
            with self._path(name).open("wb") as file:
                yield cast("BinaryIO", file)
                file.flush()
                os.fsync(file.fileno())
            return
        with store_errors(), self._system.open(self._inside(name), "wb") as file:
            yield file

    def read_plain(self, name: str) -> Any:
        """Return the content of a file that ``torch.save`` wrote, of tensors and plain types."""
        if not self.is_store:
            return read_file(self._path(name))
        with store_errors():
            data = self._system.cat_file(self._inside(name))
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # unpicklers raise errors without a common base
            raise CheckpointError(
                f"{self.place}/{name}: expected a complete file of tensors and plain types: "
                f"{first_line(error)}"
            ) from error

    def write_plain(self, name: str, content: Any) -> None:
        """Write a file with ``torch.save`` that is either complete or absent."""
        if not self.is_store:
            with new_file(self._path(name)) as temporary:
                save_plain(content, temporary)
            return
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with store_errors():
            self._system.pipe_file(self._inside(name), buffer.getvalue())

    def copy(self, name: str, target: Folder) -> None:
        """Copy a file to another folder of the same store."""
        with store_errors():
            self._system.copy(self._inside(name), target._inside(name))

    def remove(self, *names: str) -> None:
        """Remove files of a store that are there."""
        with store_errors():
            for name in names:
                if self._system.exists(self._inside(name)):
                    self._system.rm(self._inside(name), recursive=True)

    def _open(self, name: str) -> BinaryIO:
        if not self.is_store:
            return self._path(name).open("rb")
        return cast("BinaryIO", self._system.open(self._inside(name), "rb"))

    def _path(self, name: str) -> Path:
        return Path(self._root) / name

    def _inside(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise errors of stores, which have no common base, as ``OSError``."""
    try:
        yield
    except (OSError, CheckpointError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {first_line(error)}") from error


def _read_range(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)
