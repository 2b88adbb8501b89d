"""Numbers of the kept samples and their ids, in both directions, over packed bits.

The n-th kept sample is found by its block, from the number of kept samples before each block, and
then inside the block. Next to the bits (N / 8 bytes) this takes 8 bytes per block of 2,048 samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, final

import numpy as np
from jaxtyping import Int64, UInt8

_BLOCK_BYTES: Final = 256
_BLOCK_SAMPLES: Final = 8 * _BLOCK_BYTES
_TILE: Final = 4096  # number of blocks that are counted together
_BITS: Final = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_ONES: Final = _BITS.sum(axis=1, dtype=np.uint8)  # number of ones in each byte
# Position of the k-th one in each byte: zeros are sorted behind the ones.
_POSITIONS: Final = np.argsort(1 - _BITS, axis=1, kind="stable").astype(np.uint8)


class KeptSamples(ABC):
    """The samples of a data set that are kept, numbered in the order of their ids (abstract)."""

    num_samples: int
    """Number of samples of the data set."""
    num_kept: int
    """Number of kept samples."""

    @abstractmethod
    def ids(self, numbers: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return the ids of kept samples by their numbers, from 0 to ``num_kept`` - 1."""

    @abstractmethod
    def num_before(self, ids: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Count the kept samples before some ids, from 0 to ``num_samples``."""

    def first_ids(self, count: int) -> list[int]:
        """Return the ids of the first kept samples."""
        ids: list[int] = self.ids(np.arange(min(count, self.num_kept))).tolist()
        return ids


@final
class AllSamples(KeptSamples):
    """All samples are kept.

    Args:
        num_samples: Number of samples of the data set.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = self.num_kept = num_samples

    def ids(self, numbers: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return the numbers."""
        return numbers

    def num_before(self, ids: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return the ids."""
        return ids


@final
class KeptBits(KeptSamples):
    """Samples that are kept where a bit is one.

    Args:
        bits: One bit per sample, the first sample in the lowest bit of the first byte; not copied.
        num_samples: Number of samples. Bits after them are zero.

    Examples:
        >>> kept = KeptBits(np.packbits([1, 0, 0, 1, 1], bitorder="little"), 5)
        >>> kept.ids(np.arange(3)).tolist(), kept.num_before(np.array([3, 4, 5])).tolist()
        ([0, 3, 4], [1, 2, 3])
    """

    def __init__(self, bits: UInt8[np.ndarray, " bytes"], num_samples: int) -> None:
        self.num_samples = num_samples
        num_blocks = len(bits) // _BLOCK_BYTES
        self._blocks = bits[: num_blocks * _BLOCK_BYTES].reshape(num_blocks, _BLOCK_BYTES)
        rest = bits[num_blocks * _BLOCK_BYTES :]
        self._last = np.zeros(_BLOCK_BYTES, dtype=np.uint8)
        self._last[: len(rest)] = rest
        counts = np.zeros(num_blocks + 2, dtype=np.int64)
        for start in range(0, num_blocks, _TILE):
            ones = _ONES[self._blocks[start : start + _TILE]].sum(axis=1)
            counts[start + 1 : start + 1 + len(ones)] = ones
        counts[-1] = _ONES[self._last].sum()
        # Number of kept samples before each block, and in all.
        self._before: Int64[np.ndarray, " blocks+1"] = np.cumsum(counts)
        self.num_kept = int(self._before[-1])

    def ids(self, numbers: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return the ids of kept samples."""
        return _in_tiles(self._ids, numbers)

    def num_before(self, ids: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Count the kept samples before some ids."""
        return _in_tiles(self._num_before, ids)

    def _ids(self, numbers: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        blocks = np.searchsorted(self._before, numbers, side="right") - 1
        rows = self._rows(blocks)
        left = numbers - self._before[blocks]  # kept samples of the block before this one
        ends = np.cumsum(_ONES[rows], axis=1, dtype=np.int64)
        byte = (ends <= left[:, None]).sum(axis=1)
        each = np.arange(len(numbers))
        values = rows[each, byte]
        left -= ends[each, byte] - _ONES[values]
        ids: Int64[np.ndarray, " B"] = blocks * _BLOCK_SAMPLES + byte * 8 + _POSITIONS[values, left]
        return ids

    def _num_before(self, ids: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        blocks, offsets = np.divmod(ids, _BLOCK_SAMPLES)
        rows = self._rows(blocks)
        ends = np.cumsum(_ONES[rows], axis=1, dtype=np.int64)
        each, byte = np.arange(len(ids)), offsets // 8
        values = rows[each, byte]
        ones = ends[each, byte] - _ONES[values] + _ONES[values & ((1 << offsets % 8) - 1)]
        before: Int64[np.ndarray, " B"] = self._before[blocks] + ones
        return before

    def _rows(self, blocks: Int64[np.ndarray, " B"]) -> UInt8[np.ndarray, "B block_bytes"]:
        rows = np.empty((len(blocks), _BLOCK_BYTES), dtype=np.uint8)
        is_last = blocks == len(self._blocks)
        rows[is_last] = self._last
        rows[~is_last] = self._blocks[blocks[~is_last]]
        return rows


@final
class JoinedSamples(KeptSamples):
    """The kept samples of several data sets, one after another.

    Args:
        parts: Kept samples of each data set.

    Examples:
        >>> second = KeptBits(np.packbits([0, 1], bitorder="little"), 2)
        >>> JoinedSamples([AllSamples(2), second]).ids(np.arange(3)).tolist()
        [0, 1, 3]
    """

    def __init__(self, parts: Sequence[KeptSamples]) -> None:
        self._parts = tuple(parts)
        self._first_ids = _starts([part.num_samples for part in parts])
        self._first_numbers = _starts([part.num_kept for part in parts])
        self.num_samples = int(self._first_ids[-1])
        self.num_kept = int(self._first_numbers[-1])

    def ids(self, numbers: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return the ids of kept samples."""
        ids = np.empty_like(numbers)
        which = np.searchsorted(self._first_numbers, numbers, side="right") - 1
        for number in np.unique(which).tolist():
            here = which == number
            inside = self._parts[number].ids(numbers[here] - self._first_numbers[number])
            ids[here] = self._first_ids[number] + inside
        return ids

    def num_before(self, ids: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Count the kept samples before some ids."""
        before = np.empty_like(ids)
        which = np.searchsorted(self._first_ids[:-1], ids, side="right") - 1
        for number in np.unique(which).tolist():
            here = which == number
            inside = self._parts[number].num_before(ids[here] - self._first_ids[number])
            before[here] = self._first_numbers[number] + inside
        return before


def num_ones(bits: UInt8[np.ndarray, " bytes"]) -> int:
    """Count the ones of packed bits."""
    tile = _TILE * _BLOCK_BYTES
    starts = range(0, len(bits), tile)
    return sum(int(_ONES[bits[start : start + tile]].sum(dtype=np.int64)) for start in starts)


def _starts(sizes: Sequence[int]) -> Int64[np.ndarray, " parts+1"]:
    return np.cumsum([0, *sizes], dtype=np.int64)


def _in_tiles(
    function: Callable[[Int64[np.ndarray, " B"]], Int64[np.ndarray, " B"]],
    values: Int64[np.ndarray, " B"],
) -> Int64[np.ndarray, " B"]:
    """Apply a function to some values at a time: each takes the memory of some blocks."""
    if len(values) <= _TILE:
        return function(values)
    tiles = [function(values[start : start + _TILE]) for start in range(0, len(values), _TILE)]
    return np.concatenate(tiles)
