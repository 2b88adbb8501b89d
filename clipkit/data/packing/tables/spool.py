"""Rows of a table in a temporary file, grouped by image, with bounded memory."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from typing import Any, final

import numpy as np
from jaxtyping import Int64, UInt64


@final
class RowSpool:
    """Rows that are appended once and then read in any order; safe for threads.

    A row in memory costs 8 bytes. The file has no name, so that it vanishes with the process.

    Args:
        numbers: Numbers of the rows that will be appended, ascending; None for 0, 1, 2, ...
    """

    def __init__(self, numbers: Int64[np.ndarray, " rows"] | None = None) -> None:
        self._numbers = numbers
        self._file = tempfile.TemporaryFile(prefix="clipkit-rows-")  # noqa: SIM115
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, row: Any) -> None:
        """Append a row of plain types."""
        data = json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def close_writing(self) -> None:
        """Make all rows readable."""
        self._file.flush()

    def read(self, number: int) -> Any:
        """Return a row."""
        if self._numbers is not None:
            place = int(np.searchsorted(self._numbers, number))
            assert self._numbers[place] == number, f"row {number} was not stored"
            number = place
        start, end = self._ends[number], self._ends[number + 1]
        data = os.pread(self._file.fileno(), end - start, start)
        return json.loads(data.decode("utf-8", "surrogatepass"))


def name_hash(name: str) -> int:
    """Return 64 bits of a hash, the same in every process."""
    data = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@final
class RowGroups:
    """Rows with the same hash, in the order in which the hashes first appear.

    Args:
        hashes: Hash of the image of each row.

    Examples:
        >>> groups = RowGroups(np.array([7, 5, 7], dtype=np.uint64))
        >>> [groups.rows(number) for number in range(len(groups))]
        [[0, 2], [1]]
    """

    def __init__(self, hashes: UInt64[np.ndarray, " rows"]) -> None:
        self._size = len(hashes)
        self._order: np.ndarray | None = None
        ordered = np.sort(hashes)
        if not (ordered[1:] == ordered[:-1]).any():
            return  # a row per image, as in most large tables
        del ordered
        # 32 bits where they suffice, because these arrays are as long as the table.
        kind = np.uint32 if len(hashes) < 2**32 else np.int64
        order = np.argsort(hashes, kind="stable").astype(kind)
        ordered = hashes[order]
        is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        starts = np.flatnonzero(is_first).astype(kind)
        by_appearance = np.argsort(order[starts], kind="stable")
        ends = np.append(starts[1:], len(hashes)).astype(kind)
        self._order = order
        self._starts, self._ends = starts[by_appearance], ends[by_appearance]
        self._size = len(starts)

    def __len__(self) -> int:
        return self._size

    def rows(self, group: int) -> list[int]:
        """Return the numbers of the rows of a group, ascending."""
        if self._order is None:
            return [group]
        rows: list[int] = self._order[self._starts[group] : self._ends[group]].tolist()
        return rows

    def rows_of(self, groups: range) -> Int64[np.ndarray, " rows"]:
        """Return the numbers of the rows of consecutive groups, ascending."""
        if self._order is None:
            return np.arange(groups.start, groups.stop, dtype=np.int64)
        spans = zip(
            self._starts[groups.start : groups.stop], self._ends[groups.start :], strict=False
        )
        parts = [self._order[start:end] for start, end in spans]
        return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *parts])).astype(np.int64)

    def mixed(self, values: np.ndarray) -> list[int]:
        """Return the groups whose rows have different values.

        Args:
            values: A value for each row.
        """
        if self._order is None:
            return []
        ordered = values[self._order]
        differs = np.concatenate([[0], np.cumsum(ordered[1:] != ordered[:-1])])
        changes = differs[self._ends.astype(np.int64) - 1] - differs[self._starts]
        mixed: list[int] = np.flatnonzero(changes).tolist()
        return mixed
