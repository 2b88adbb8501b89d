"""Count the most frequent items of a stream in bounded memory.

Misra & Gries 1982, "Finding repeated elements", in batches as in Agarwal et al. 2012, "Mergeable
summaries", section 2: when there are too many items, the count of the first one that does not fit
is subtracted from all, and items without a count are dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final


@final
class FrequentItems:
    """Counts items, and drops rare ones.

    Args:
        capacity: Number of items that are kept at least.

    Attributes:
        num_items: Number of items that were added.
        error: Largest number by which a count is too low; at most ``num_items / capacity``.

    Examples:
        >>> items = FrequentItems(capacity=2)
        >>> items.add(["a", "a", "a", "b", "b", "c", "d", "e"])
        >>> items.most_common(1), items.error
        ([('a', 2)], 1)
    """

    def __init__(self, capacity: int) -> None:
        self._counts = Counter[str]()
        self._capacity = capacity
        self.num_items = 0
        self.error = 0

    def add(self, items: Sequence[str]) -> None:
        """Add items. The memory holds twice the capacity, and the items of one call."""
        self._counts.update(items)
        self.num_items += len(items)
        if len(self._counts) > 2 * self._capacity:
            counts = sorted(self._counts.values(), reverse=True)
            subtracted = counts[self._capacity]
            self.error += subtracted
            self._counts = Counter(
                {item: n - subtracted for item, n in self._counts.items() if n > subtracted}
            )

    def most_common(self, num_items: int, min_count: int = 1) -> list[tuple[str, int]]:
        """Return the most frequent items with their counts, in a fixed order.

        Args:
            num_items: Largest number of items.
            min_count: Smallest count of an item.
        """
        frequent = [(item, n) for item, n in self._counts.items() if n >= min_count]
        return sorted(frequent, key=lambda each: (-each[1], each[0]))[:num_items]
