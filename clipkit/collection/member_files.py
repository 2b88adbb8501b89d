"""Image files, sound files and others of a collection, read from the shards by position."""

from __future__ import annotations

import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.collection.collection import Collection
from clipkit.data.storage.cache import default_cache
from clipkit.data.storage.remote import RangesIgnored
from clipkit.data.storage.urls import Address, parse_address
from clipkit.errors import SampleError, ShardError

MAX_FILE_BYTES: Final = 64 * 2**20
"""Largest image or sound file that is read."""
_BLOCK: Final = tarfile.BLOCKSIZE
_KEPT_SHARDS: Final = 64


@final
class CollectionFiles:
    """Reads the files of one kind of a collection from its shards; safe for threads.

    Only the file's own bytes are read, together with the header of the tar before them, which has
    to agree: nothing else of a shard, and no other file, is returned.

    Args:
        collection: The collection.
        kind: "image", or the name of a further modality, such as "sound".
        addresses: Where the shards are now; None for where they were when they were embedded.

    Raises:
        DataError: If an address is a command.
    """

    def __init__(
        self,
        collection: Collection,
        kind: str = "image",
        addresses: Sequence[Address] | None = None,
    ) -> None:
        self._collection = collection
        self._kind = kind
        self._named = "an image" if kind == "image" else f"a {kind}"
        shards = collection.info.shards
        self._addresses = (
            [parse_address(shard.url) for shard in shards] if addresses is None else addresses
        )
        self._spans: OrderedDict[int, Int64[np.ndarray, "2 N"]] = OrderedDict()
        self._lock = threading.Lock()

    def size_bytes(self, row: int) -> int:
        """Return the size of the file of a sample, which is not read.

        Args:
            row: Row of the sample.

        Raises:
            DataError: If there is no such row, or the table of its shard is damaged.
            SampleError: If the sample has no such file, or one of more than 64 MiB.
        """
        return self._located(row)[2]

    def read(self, row: int, start: int = 0, end: int | None = None) -> bytes:
        """Return bytes of the file of a sample.

        Args:
            row: Row of the sample.
            start: Position of the first byte in the file.
            end: Position after the last byte; None for the end of the file.

        Raises:
            DataError: If there is no such row, or the table of its shard is damaged.
            SampleError: If the sample has no such file, or one of more than 64 MiB.
            ShardError: If the shard is missing, or changed since it was embedded.
        """
        address, offset, size = self._located(row)
        end = size if end is None else min(end, size)
        start = min(start, end)
        spans = [(offset - _BLOCK, offset), (offset + start, offset + end)]
        if start == 0:
            spans = [(offset - _BLOCK, offset + end)]
        data = b"".join(self._read(address, spans))
        if not _is_member(data[:_BLOCK], size) or len(data) != _BLOCK + end - start:
            raise ShardError(
                f"{address}: expected {self._named} at byte {offset}, as when it was embedded; the "
                "shard has changed: embed it again"
            )
        return data[_BLOCK:]

    def _located(self, row: int) -> tuple[Address, int, int]:
        """Return the shard of the file of a sample, its offset and its size."""
        number, position = self._collection.locate(row)
        offset, size = self._positions(number)[:, position].tolist()
        url = str(self._addresses[number])
        if offset < _BLOCK or size <= 0:
            raise SampleError(f"{url}: sample {position} has no {self._kind}")
        if size > MAX_FILE_BYTES:
            raise SampleError(
                f"{url}: sample {position}: expected {self._named} of at most "
                f"{MAX_FILE_BYTES} bytes, got {size}"
            )
        return self._addresses[number], offset, size

    def _positions(self, number: int) -> Int64[np.ndarray, "2 N"]:
        """Return the offsets and sizes of the files of a shard; 0 where there is none."""
        with self._lock:
            spans = self._spans.get(number)
            if spans is not None:
                self._spans.move_to_end(number)
                return spans
        names = [f"{self._kind}_offset_bytes", f"{self._kind}_size_bytes"]
        table = self._collection.shards[number].table(names)
        spans = np.stack([np.asarray(table.column(name).fill_null(0)) for name in names])
        with self._lock:
            self._spans[number] = spans
            while len(self._spans) > _KEPT_SHARDS:
                self._spans.popitem(last=False)
        return spans

    def _read(self, address: Address, spans: list[tuple[int, int]]) -> list[bytes]:
        """Return parts of a shard; fewer bytes if it is shorter."""
        if not address.is_local:
            return self._read_remote(address, spans)
        try:
            descriptor = os.open(address.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise ShardError(
                f"{address}: cannot be read: {error.strerror}; files of "
                f"{self._collection.folder} are in this shard"
            ) from error
        try:
            return [os.pread(descriptor, end - start, start) for start, end in spans]
        except OSError as error:
            raise ShardError(f"{address}: cannot be read: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def _read_remote(self, address: Address, spans: list[tuple[int, int]]) -> list[bytes]:
        cache = default_cache()
        remote = cache.stat(address)
        try:
            return list(cache.read_parts(remote, spans))
        except RangesIgnored:
            descriptor = cache.open(remote)
            try:
                return [os.pread(descriptor, end - start, start) for start, end in spans]
            finally:
                os.close(descriptor)


def _is_member(block: bytes, size: int) -> bool:
    """Return whether a block is the header of a tar's file of this size."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return header.isreg() and header.size == size
