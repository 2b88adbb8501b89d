"""Split samples into training and test data, in complete groups and in equal shares."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from clipkit.errors import ConfigError

Counts = Int64[np.ndarray, " strata"]


def split_samples(
    groups: Int64[np.ndarray, " N"],
    strata: Int64[np.ndarray, " N"],
    digests: UInt64[np.ndarray, " N"],
    test_size: float,
    seed: int = 0,
) -> Bool[np.ndarray, " N"]:
    """Select the samples of the test split.

    Groups are taken in an order that depends only on the seed and the content of the images, as
    long as they fill the counts that are wanted of each stratum more than they exceed them. Each
    stratum with at least two groups has samples in both splits if its groups allow it.

    Args:
        groups: Number of the group of each sample; a group is never separated.
        strata: Number of the stratum of each sample, such as its class.
        digests: Hash of the content of each sample.
        test_size: Share of test samples if it is a float, their number if it is an integer.
        seed: Seed of the order of the groups.

    Returns:
        Whether each sample belongs to the test split.
    """
    counts = np.bincount(strata)
    wanted = quotas(counts, test_size)
    if (wanted >= counts).all():
        return np.ones(len(groups), dtype=bool)
    members = _members(groups)
    ordered = sorted(members, key=lambda rows: _draw(int(digests[rows].min()), seed))
    chooser = _Chooser(counts, wanted)
    chosen = [rows for rows in ordered if chooser.take(strata[rows], is_needed=False)]
    taken = {int(rows[0]) for rows in chosen}
    chosen += [
        rows
        for rows in sorted(ordered, key=len)
        if int(rows[0]) not in taken and chooser.take(strata[rows], is_needed=True)
    ]
    is_test = np.zeros(len(groups), dtype=bool)
    for rows in chosen:
        is_test[rows] = True
    return is_test


def quotas(counts: Counts, test_size: float) -> Counts:
    """Return the number of test samples that is wanted of each stratum.

    Largest remainders of equal shares. A stratum with at least two samples gets at least one test
    sample and keeps at least one training sample.

    Raises:
        ConfigError: If there are not enough samples.

    Examples:
        >>> quotas(np.array([70, 29, 1]), 0.2).tolist()
        [14, 6, 0]
    """
    total = int(counts.sum())
    is_share = isinstance(test_size, float)
    if is_share and not 0 < test_size <= 1:
        raise ConfigError(f"test_size: expected a share above 0 and up to 1.0, got {test_size}")
    size = round(test_size * total) if is_share else int(test_size)
    if not 1 <= size <= total:
        raise ConfigError(
            f"test_size: expected 1 to {total} samples, got {test_size}; the source has {total} "
            f"usable samples"
        )
    if size == total:
        return counts.copy()
    exact = [Fraction(size * int(count), total) for count in counts]
    floors = [int(each) for each in exact]
    order = sorted(range(len(exact)), key=lambda at: (floors[at] - exact[at], at))
    wanted = np.array(floors, np.int64)
    wanted[order[: size - sum(floors)]] += 1
    return np.where(counts > 1, wanted.clip(1, np.maximum(counts - 1, 1)), 0)


class _Chooser:
    """Decides for one group after another whether it belongs to the test split."""

    def __init__(self, counts: Counts, wanted: Counts) -> None:
        self._left = counts.tolist()
        self._lacking = wanted.tolist()
        self._is_empty = [count > 0 for count in self._lacking]

    def take(self, strata: Int64[np.ndarray, " size"], is_needed: bool) -> bool:
        """Take a group if it fills more than it exceeds, or if a stratum has nothing yet."""
        sizes: dict[int, int] = {}
        for stratum in strata.tolist():
            sizes[stratum] = sizes.get(stratum, 0) + 1
        if any(self._left[stratum] <= size for stratum, size in sizes.items()):
            return False  # the training split would lose the stratum
        if is_needed:
            if not any(self._is_empty[stratum] for stratum in sizes):
                return False
        else:
            filled = sum(min(size, max(0, self._lacking[at])) for at, size in sizes.items())
            if 2 * filled <= len(strata):
                return False
        for stratum, size in sizes.items():
            self._left[stratum] -= size
            self._lacking[stratum] -= size
            self._is_empty[stratum] = False
        return True


def _members(groups: Int64[np.ndarray, " N"]) -> list[Int64[np.ndarray, " size"]]:
    """Return the samples of each group."""
    order = np.argsort(groups, kind="stable")
    starts = np.nonzero(np.diff(groups[order]))[0] + 1
    return np.split(order, starts)


def _draw(content: int, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {content}".encode(), digest_size=16).digest()
