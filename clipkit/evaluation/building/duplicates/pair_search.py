"""Find pairs of rows that agree in a part of their bits, without comparing all rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Int64, UInt64

from clipkit.data.images.perceptual_hash import are_within

Rows = Int64[np.ndarray, " pairs"]
MAX_NEIGHBOURS: Final = 1024
_PAIRS_PER_BATCH: Final = 1 << 20


@dataclass(slots=True)
class NearPairs:
    """Pairs of rows that are alike.

    Args:
        first: First row of each pair.
        second: Second row of each pair.
        values: Distance or similarity of each pair.
    """

    first: Rows
    second: Rows
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


@final
class PairSearch:
    """Pairs rows with equal values.

    Of a value that many rows share, each row is paired only with the next ``MAX_NEIGHBOURS`` in the
    order of ``bits``: the number of pairs stays linear in that of the rows.

    Attributes:
        num_cut: Number of rows with further rows of their value that they were not compared with.
    """

    def __init__(self) -> None:
        self.num_cut = 0

    def pairs(
        self,
        values: UInt64[np.ndarray, " N"],
        bits: UInt64[np.ndarray, "N words"],
        most: int | None = None,
    ) -> Iterator[tuple[Rows, Rows]]:
        """Yield pairs of rows with equal values, in batches.

        Args:
            values: Value of each row.
            bits: Bits of each row.
            most: Number of bits in which the rows of a pair may differ; None for any.
        """
        order = np.lexsort((*bits.T[::-1], values))
        ordered = values[order]
        # In the order of the values, the rows of a pair are near each other in memory.
        columns = None if most is None else np.ascontiguousarray(bits[order].T)
        active = np.arange(len(values) - 1)
        waiting: list[tuple[Rows, Rows]] = []
        num_waiting = 0
        for distance in range(1, MAX_NEIGHBOURS + 2):
            active = active[active + distance < len(values)]
            active = active[ordered[active] == ordered[active + distance]]
            if distance > MAX_NEIGHBOURS:
                self.num_cut += len(active)
            elif len(active):
                first, second = active, active + distance
                if columns is not None and most is not None:
                    near = are_within(columns, first, second, most)
                    first, second = first[near], second[near]
                waiting.append((order[first], order[second]))
                num_waiting += len(first)
            if waiting and (num_waiting > _PAIRS_PER_BATCH or not len(active)):
                yield _joined(waiting)
                waiting, num_waiting = [], 0
            if not len(active):
                break
        if waiting:
            yield _joined(waiting)


def bands(bits: UInt64[np.ndarray, "N words"], num_bits: int) -> Iterator[UInt64[np.ndarray, " N"]]:
    """Yield the bits of each row in parts of ``num_bits`` bits, the last bits left out.

    Rows that differ in fewer bits than there are parts agree in at least one part (pigeonhole).
    """
    mask = np.uint64((1 << num_bits) - 1)
    for start in range(0, 64 * bits.shape[1] - num_bits + 1, num_bits):
        word, shift = divmod(start, 64)
        values = bits[:, word] >> np.uint64(shift)
        if shift + num_bits > 64:
            values = values | (bits[:, word + 1] << np.uint64(64 - shift))
        yield values & mask


def distinct_pairs(found: list[NearPairs], num_rows: int, smallest: bool) -> NearPairs:
    """Join pairs, each once, ordered by their rows.

    Args:
        found: Pairs; a pair may occur several times, also with its rows exchanged.
        num_rows: Number of rows.
        smallest: Whether the smallest value of a pair is kept, else the largest.
    """
    if not found:
        empty = np.empty(0, np.int64)
        return NearPairs(empty, empty, np.empty(0))
    first, second, values = (
        np.concatenate([getattr(each, name) for each in found])
        for name in ("first", "second", "values")
    )
    first, second = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((values if smallest else -values, second, first))
    codes = first[order] * num_rows + second[order]
    kept = order[np.concatenate([[True], codes[1:] != codes[:-1]])] if len(codes) else order
    return NearPairs(first[kept], second[kept], values[kept])


def equal_rows(
    table: np.ndarray,
) -> tuple[Int64[np.ndarray, " distinct"], Int64[np.ndarray, " N"]]:
    """Return the first row of each set of equal rows, and for each row the number of its set."""
    _, first, numbers = np.unique(table, axis=0, return_index=True, return_inverse=True)
    ranks = np.empty(len(first), np.int64)
    ranks[np.argsort(first, kind="stable")] = np.arange(len(first))
    return np.sort(first), ranks[numbers.reshape(-1)]


def _joined(parts: list[tuple[Rows, Rows]]) -> tuple[Rows, Rows]:
    return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])
