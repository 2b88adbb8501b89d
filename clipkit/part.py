"""One of several parts of a job, such as that of a task of a SLURM array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

from clipkit.errors import ConfigError


@final
@dataclass(frozen=True, slots=True)
class Part:
    """One of several parts of a job.

    Args:
        number: Number of the part, from 1 to ``count``.
        count: Number of parts.

    Raises:
        ConfigError: If the number is out of range.

    Examples:
        >>> Part.parse("2/3").of(range(7)), Part(2, 3).range_of(7)
        ([1, 4], range(2, 4))
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(
                f"part: expected 1/N to N/N, got {self.number}/{self.count}; a SLURM array for "
                f"N parts is --array=1-N"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a part such as "1/8".

        Raises:
            ConfigError: If the text is no part.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise ConfigError(f"part: expected I/N, such as 1/8, got {text!r}")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, numbers: Sequence[int]) -> list[int]:
        """Return every ``count``-th number."""
        return list(numbers[self.number - 1 :: self.count])

    def range_of(self, total: int) -> range:
        """Return consecutive numbers from 0 to ``total - 1``; parts differ by at most one number.

        All parts together are all numbers, each once; parts are empty if there are more of them.
        """
        return range(total * (self.number - 1) // self.count, total * self.number // self.count)
