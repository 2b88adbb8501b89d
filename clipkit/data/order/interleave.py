"""Map a position in a mixture to a source, in exact proportions and constant time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np
from jaxtyping import Int64

from clipkit.errors import ConfigError

# Products of two of these must fit into 64 bits.
_MAX_PERIOD: Final = 2**31


def quotas_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Return the smallest integers in the same proportion.

    Examples:
        >>> quotas_of([0.7, 0.2, 0.1])
        (7, 2, 1)
    """
    if not weights or any(not math.isfinite(w) or w < 0 for w in weights) or sum(weights) == 0:
        raise ConfigError(f"weights: expected numbers of at least 0, not all 0, got {weights}")
    # A float's shortest decimal is what the user wrote: 0.1, not 3602879701896397 / 2**55.
    exact = [Fraction(str(weight)) for weight in weights]
    denominator = math.lcm(*(weight.denominator for weight in exact))
    numbers = [int(weight * denominator) for weight in exact]
    divisor = math.gcd(*numbers)
    numbers = [number // divisor for number in numbers]
    total = sum(numbers)
    if total <= _MAX_PERIOD:
        return tuple(numbers)
    scaled = [number * (_MAX_PERIOD - len(numbers)) // total for number in numbers]
    return tuple(max(new, number > 0) for new, number in zip(scaled, numbers, strict=True))


def counts_before(
    quotas: Sequence[int], positions: Int64[np.ndarray, " B"]
) -> Int64[np.ndarray, "sources B"]:
    """Count the samples of each source before each position.

    The largest source gets its share of the positions, evenly spaced, the next its share of the
    remaining ones, and so on: every count is exact at the end of a period, and within two of the
    exact share at any position.
    """
    counts = np.zeros((len(quotas), len(positions)), dtype=np.int64)
    left = np.asarray(positions, dtype=np.int64).copy()
    period = sum(quotas)
    for source in sorted(range(len(quotas)), key=lambda source: -quotas[source]):
        quota = quotas[source]
        if quota == 0:
            break
        complete, part = np.divmod(left, period)
        counts[source] = complete * quota + (part * quota + period // 2) // period
        left -= counts[source]
        period -= quota
    return counts


def interleave(
    quotas: Sequence[int], positions: Int64[np.ndarray, " B"]
) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
    """Return the source at each position, and the number of the sample in that source.

    Examples:
        >>> interleave((2, 1), np.arange(6))[0].tolist()
        [0, 1, 0, 0, 1, 0]
    """
    before = counts_before(quotas, positions)
    grown = counts_before(quotas, positions + 1) - before
    sources = grown.argmax(axis=0)
    return sources, np.take_along_axis(before, sources[None], axis=0)[0]
