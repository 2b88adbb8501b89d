"""Parts of a remote file in a sparse local file, with a checksum for each block."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, final

import numpy as np

BLOCK_BYTES: Final = 2**14
"""Unit of transfers: an image of 100 KB costs 16 KB that are not needed."""
_SUM_BYTES: Final = 4


@final
class PartialFile:
    """Blocks of a remote file that were transferred, shared by all processes of a machine.

    The file is sparse: the blocks at their places, and after them a table of their CRC-32, in which
    0 is a block that was not transferred. A block that was damaged by a crash of the machine is
    transferred again. Two processes may write one block at the same time, because they write the
    same bytes.

    Args:
        path: The local file; created if it does not exist.
        size_bytes: Size of the remote file.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._size = size_bytes
        self._num_blocks = -(-size_bytes // BLOCK_BYTES)
        self._path = path
        self._descriptor = self._open()
        self.lock = threading.Lock()

    def __del__(self) -> None:
        os.close(self._descriptor)

    def open_again(self) -> None:
        """Open the file anew, and empty, if it was deleted: what is written now has a name again.

        A deleted file takes up the disk until it is closed, without a name to find it by.
        """
        if os.fstat(self._descriptor).st_nlink > 0:
            return
        again = self._open()
        # The number of the descriptor stays, because other threads may be reading.
        os.dup2(again, self._descriptor, inheritable=False)
        os.close(again)

    def missing(self, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the ranges of complete blocks that lack for some spans, ascending."""
        wanted = np.zeros(self._num_blocks + 1, dtype=bool)
        for start, end in spans:
            wanted[start // BLOCK_BYTES : -(-end // BLOCK_BYTES)] = True
        blocks = np.flatnonzero(wanted)
        if len(blocks) == 0:
            return []
        first, last = int(blocks[0]), int(blocks[-1]) + 1
        wanted[first:last] &= self._sums(first, last) == 0
        edges = np.flatnonzero(np.diff(wanted, prepend=False)).reshape(-1, 2) * BLOCK_BYTES
        return [(start, min(end, self._size)) for start, end in edges.tolist()]

    def write(self, start: int, data: bytes) -> None:
        """Store the blocks from ``start`` on."""
        os.pwrite(self._descriptor, data, start)
        sums = [
            zlib.crc32(data[at : at + BLOCK_BYTES]) or 1 for at in range(0, len(data), BLOCK_BYTES)
        ]
        table = np.array(sums, dtype="<u4").tobytes()
        os.pwrite(self._descriptor, table, self._sums_at(start // BLOCK_BYTES))

    def read(self, start: int, end: int) -> bytes | None:
        """Return bytes ``start`` to ``end``; None if a block lacks or is damaged."""
        first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        origin = first * BLOCK_BYTES
        data = os.pread(self._descriptor, min(last * BLOCK_BYTES, self._size) - origin, origin)
        for block, stored in enumerate(self._sums(first, last).tolist()):
            piece = data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
            if stored != (zlib.crc32(piece) or 1):
                self._forget(first + block)
                return None
        return data[start - origin : end - origin]

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        os.ftruncate(descriptor, self._sums_at(self._num_blocks))
        return descriptor

    def _forget(self, block: int) -> None:
        os.pwrite(self._descriptor, bytes(_SUM_BYTES), self._sums_at(block))

    def _sums(self, first: int, last: int) -> np.ndarray:
        table = os.pread(self._descriptor, (last - first) * _SUM_BYTES, self._sums_at(first))
        return np.frombuffer(table, dtype="<u4")

    def _sums_at(self, block: int) -> int:
        return self._num_blocks * BLOCK_BYTES + block * _SUM_BYTES


def split_ranges(ranges: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Cut ranges into pieces of at most ``most`` bytes.

    Examples:
        >>> split_ranges([(0, 5), (10, 12)], 3)
        [(0, 3), (3, 5), (10, 12)]
    """
    return [(at, min(at + most, end)) for start, end in ranges for at in range(start, end, most)]
