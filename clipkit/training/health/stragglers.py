"""Compare the time that each rank needs for its own part of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

_DATA: Final = "waiting for its data"
_TOWERS: Final = "the forward pass of the towers"


@dataclass(frozen=True, slots=True)
class OwnTime:
    """Mean seconds of a step in which a rank does not wait for others.

    Args:
        data: Waiting for the loader.
        towers: Forward pass of the towers.
    """

    data: float
    towers: float

    @property
    def total(self) -> float:
        """Sum of the parts."""
        return self.data + self.towers


def typical_seconds(times: Sequence[OwnTime]) -> float:
    """Return the median of the ranks' totals."""
    return median(time.total for time in times)


def describe_stragglers(
    times: Sequence[OwnTime], hosts: Sequence[str], slow_ratio: float, least_seconds: float
) -> list[str]:
    """Describe the ranks that are slower than the others, the slowest first.

    Args:
        times: Own time of each rank.
        hosts: Name of the machine of each rank.
        slow_ratio: How many times the median a rank's own time must be.
        least_seconds: Difference from the median below which no rank is slow.

    Examples:
        >>> times = [OwnTime(0.0, 0.5), OwnTime(0.4, 0.5), OwnTime(0.0, 0.5)]
        >>> describe_stragglers(times, ["a", "b", "b"], 1.2, 0.01)
        ['rank 1 (b): 0.900 s per step, 1.80 times the median, mostly 0.400 s waiting for its data']
    """
    typical = OwnTime(median(t.data for t in times), median(t.towers for t in times))
    usual = typical_seconds(times)
    lines = []
    for rank in sorted(range(len(times)), key=lambda rank: -times[rank].total):
        time = times[rank]
        if time.total <= max(slow_ratio * usual, usual + least_seconds):
            break
        excess = {_DATA: time.data - typical.data, _TOWERS: time.towers - typical.towers}
        cause = max(excess, key=lambda part: excess[part])
        ratio = f", {time.total / usual:.2f} times the median" if usual > 0 else ""
        lines.append(
            f"rank {rank} ({hosts[rank]}): {time.total:.3f} s per step{ratio}, mostly "
            f"{excess[cause]:.3f} s {cause}"
        )
    return lines
