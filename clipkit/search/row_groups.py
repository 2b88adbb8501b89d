"""Groups of rows that pairs connect: union-find over arrays."""

from __future__ import annotations

from typing import final

import numpy as np
from jaxtyping import Int64

Numbers = Int64[np.ndarray, " rows"]


@final
class RowGroups:
    """Disjoint groups of rows; at first, each row is a group.

    Pairs are joined as arrays, thousands of times faster than one by one. The number of a group is
    its lowest row, whatever the order of the pairs.

    Args:
        num_rows: Number of rows.

    Examples:
        >>> groups = RowGroups(5)
        >>> groups.join(np.array([0, 3]), np.array([2, 2]))
        >>> groups.members()
        [array([0, 2, 3])]
    """

    def __init__(self, num_rows: int) -> None:
        self._parents = np.arange(num_rows, dtype=np.int64)

    def join(self, first: Numbers, second: Numbers) -> None:
        """Join the groups of pairs of rows."""
        while len(first):
            one, other = self._roots(first), self._roots(second)
            apart = one != other
            first, second = first[apart], second[apart]
            low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
            np.minimum.at(self._parents, high, low)

    def members(self) -> list[Int64[np.ndarray, " rows"]]:
        """Return the rows of each group of several rows, the largest group first."""
        numbers = self._roots(np.arange(len(self._parents)))
        order = np.argsort(numbers, kind="stable")
        starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        groups = [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]
        return sorted(groups, key=lambda rows: (-len(rows), int(rows[0])))

    def _roots(self, rows: Numbers) -> Numbers:
        """Return the lowest rows that are known of the groups of some rows."""
        roots: Numbers = self._parents[rows]
        while not np.array_equal(above := self._parents[roots], roots):
            roots = above
        self._parents[rows] = roots
        return roots
