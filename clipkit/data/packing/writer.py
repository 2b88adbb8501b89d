"""Write tars whose bytes depend on the samples only."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self, final

from clipkit.atomic_files import new_file
from clipkit.data.shards.shard_table import name_as_text, split_name
from clipkit.errors import DataError

FILE_MODE: Final = 0o644
"""Mode of a member inside a tar; the tar itself has the mode that the umask leaves."""


def _as_read(key: str) -> str:
    """Return the key as readers see it."""
    return name_as_text(key.encode("utf-8", "surrogateescape"))


@final
class ShardWriter:
    """Writes one WebDataset tar; equal samples give equal bytes.

    The tar appears under its name when the writer is closed without an exception; until then it is
    a hidden file in the same folder, which is removed if an error occurs.

    Args:
        path: The tar to write; its folder is created.

    Examples:
        >>> image = Path("dog.jpg").read_bytes()
        >>> with ShardWriter(Path("shards/00000.tar")) as shard:
        ...     shard.write("000000", {"jpg": image, "txt": b"a dog"})
    """

    def __init__(self, path: Path) -> None:
        from webdataset import TarWriter  # imports torch, which reading an index does not need

        self.path = path
        self.num_samples = 0
        self._stack = ExitStack()
        file = self._stack.enter_context(self._stack.enter_context(new_file(path)).open("wb"))
        # Without time, owner or anything else of this machine; extensions may begin with "_".
        tar = TarWriter(
            file, user="", group="", mode=FILE_MODE, encoder=False, keep_meta=True, mtime=0
        )
        self._tar = self._stack.enter_context(tar)
        self._keys: set[str] = set()

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a sample.

        Args:
            key: Name of the sample inside the shard, unique and without a dot in its last part.
            members: Bytes by extension, written in the order of the extensions.

        Raises:
            DataError: If the key cannot be used, or was written before.
        """
        if key.startswith("/") or split_name(f"{key}.x") != (key, "x") or _as_read(key) != key:
            raise DataError(
                f"{self.path}: key {key!r}: expected a name without dots in its last part, without "
                f"a leading slash, a folder in '__' or control characters"
            )
        if key in self._keys:
            raise DataError(f"{self.path}: key {key!r} was written before; keys must differ")
        if not members:
            raise DataError(f"{self.path}: sample {key!r} has no members")
        self._keys.add(key)
        self._tar.write({"__key__": key, **members})
        self.num_samples += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
