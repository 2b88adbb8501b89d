"""Groups of samples that must not be separated: union-find."""

from __future__ import annotations

from typing import final

import numpy as np
from jaxtyping import Int64


@final
class Groups:
    """Disjoint groups of samples; at first, each sample is a group.

    The number of a group is that of its first sample.

    Examples:
        >>> groups = Groups(4)
        >>> groups.join([0, 3], [2, 3])
        >>> groups.numbers().tolist()
        [0, 1, 0, 3]
    """

    def __init__(self, num_samples: int) -> None:
        self._parents = list(range(num_samples))

    def join(self, first: np.ndarray | list[int], second: np.ndarray | list[int]) -> None:
        """Join the groups of pairs of samples."""
        pairs = zip(np.asarray(first).tolist(), np.asarray(second).tolist(), strict=True)
        for a, b in pairs:
            one, other = self._root(a), self._root(b)
            if one != other:
                self._parents[max(one, other)] = min(one, other)

    def join_equal(self, values: Int64[np.ndarray, " N"]) -> None:
        """Join all samples with one value; a negative value is none."""
        with_value = np.nonzero(values >= 0)[0]
        order = with_value[np.argsort(values[with_value], kind="stable")]
        equal = values[order[1:]] == values[order[:-1]]
        self.join(order[1:][equal], order[:-1][equal])

    def numbers(self) -> Int64[np.ndarray, " N"]:
        """Return the number of the group of each sample."""
        return np.array([self._root(each) for each in range(len(self._parents))], np.int64)

    def _root(self, sample: int) -> int:
        parents = self._parents
        while parents[sample] != sample:
            parents[sample] = parents[parents[sample]]
            sample = parents[sample]
        return sample
