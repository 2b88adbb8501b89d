"""Find the files of a table whose parts are packed separately; other sources are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clipkit.data.packing.hub import download_parquet, hub_address
from clipkit.data.packing.images import visible_shards
from clipkit.data.packing.img2dataset import items_of_downloads
from clipkit.data.packing.sources import class_folders, tables_in
from clipkit.data.packing.tables.parts import is_pattern, matches_of, parts_of
from clipkit.data.packing.tables.row_files import TABLE_SUFFIXES
from clipkit.errors import DataError

_TAIL_BYTES: Final = 8
"""Length of a Parquet file's metadata (4 bytes) and its magic number."""


@dataclass(frozen=True, slots=True)
class TableFiles:
    """Files that together are one table.

    Args:
        files: The files, in order.
        folder: Folder that names of images are relative to.
        versions: Text that identifies the content of each file; empty for files of this machine.
    """

    files: Sequence[Path]
    folder: Path
    versions: Sequence[str] = ()

    def digest(self) -> str:
        """Return a hash that changes with the content, and is the same on every machine.

        CSV and TSV files are read completely. Of a Parquet file, the size and the metadata are
        used: positions, sizes and statistics of all columns.
        """
        digest = hashlib.sha256()
        for version in self.versions or map(_content_of, self.files):
            digest.update(f"{version}\n".encode())
        return digest.hexdigest()


def find_table(source: str | Path) -> TableFiles:
    """Find the files of a table.

    The rows of a table have one order on every machine. Other sources are lists of files, which may
    change between two parts, or are shards already.

    Raises:
        DataError: If the source is no table, or does not exist.
    """
    if (address := hub_address(source)) is not None:
        files, versions = download_parquet(address)
        return TableFiles(files, files[0].parent, versions)
    path = Path(source)
    if is_pattern(path):
        return TableFiles(matches_of(path), path.parent)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix.lower() in TABLE_SUFFIXES and not path.is_dir():
        return TableFiles([path], path.parent)
    parts = parts_of(tables_in(path)) if path.is_dir() and _refusal(path) is None else None
    if parts and parts[0].suffix.lower() in TABLE_SUFFIXES:
        return TableFiles(parts, path)
    found = _refusal(path) or "something else"
    raise DataError(
        f"{path}: expected a table ({', '.join(TABLE_SUFFIXES)}) to pack in parts, got {found}; "
        f"pack it without --part, or write its files and captions to a table"
    )


def _refusal(path: Path) -> str | None:
    """Name a source that is packed by one process only; None if it may be a table."""
    if path.suffix.lower() == ".json":
        return "a COCO-style JSON file, which is read as one piece"
    if path.suffix.lower() == ".tar" or (path.is_dir() and visible_shards(path)):
        return "shards, which are parts already"
    if not path.is_dir():
        return "another file"
    if items_of_downloads(path):
        return "the output of img2dataset as files"
    tables = tables_in(path)
    if any(file.suffix.lower() in TABLE_SUFFIXES for file in tables):
        return None if parts_of(tables) else "a folder with several tables; name one of them"
    if tables:
        return "a folder with a COCO-style JSON file, which is read as one piece"
    return "a folder with one folder per class" if class_folders(path) else "an empty folder"


def _content_of(file: Path) -> str:
    """Return a hash of the content of a file; of its size and metadata if it is Parquet."""
    try:
        with file.open("rb") as stream:
            if file.suffix.lower() != ".parquet":
                return hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _TAIL_BYTES))
            length = int.from_bytes(stream.read(4), "little")
            stream.seek(max(0, size - _TAIL_BYTES - length))
            return f"{size} {hashlib.sha256(stream.read()).hexdigest()}"
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
