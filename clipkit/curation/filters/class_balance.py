"""Balance over classes: at most a number of samples per class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from clipkit.curation.candidates import Candidates
from clipkit.curation.draws import draws
from clipkit.curation.filters.base import Decision, Filter, GroupCount
from clipkit.errors import check_at_least


@final
@dataclass(frozen=True, slots=True)
class ClassBalanceFilter(Filter):
    """Keeps at most some samples per class, selected at random by their keys.

    A sample without a class is kept.

    Args:
        most: Largest number of samples per class.
        seed: Seed of the selection. It depends on seed and keys only, not on the order.

    Raises:
        ConfigError: If ``most`` is less than 1.
    """

    most: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("max_per_class", self.most, 1)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"at most {self.most} samples per class (seed {self.seed})"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove samples of classes with more."""
        labels = np.full(len(candidates), -1, dtype=np.int64)
        numbers = np.zeros(len(candidates), dtype=np.uint64)
        for places, table in candidates.tables(["key", "label"]):
            labels[places] = table.column("label").fill_null(-1).to_numpy()
            numbers[places] = draws(table.column("key").to_pylist(), self.seed)
        removed = beyond(labels, numbers, self.most)
        return Decision(removed, groups=_groups(candidates, labels, removed))


def beyond(
    labels: Int64[np.ndarray, " N"], numbers: UInt64[np.ndarray, " N"], most: int
) -> Bool[np.ndarray, " N"]:
    """Return which samples are not among the ``most`` smallest numbers of their class.

    Args:
        labels: Class of each sample; negative for none, which is never beyond.
        numbers: Number of each sample; of equal ones, the first sample is smaller.
        most: Largest number of samples per class.
    """
    order = np.lexsort((numbers, labels))
    ordered = labels[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    removed: Bool[np.ndarray, " N"] = np.zeros(len(labels), dtype=np.bool_)
    removed[order] = (np.arange(len(labels)) - starts >= most) & (ordered >= 0)
    return removed


def _groups(
    candidates: Candidates,
    labels: Int64[np.ndarray, " candidates"],
    removed: Bool[np.ndarray, " candidates"],
) -> tuple[GroupCount, ...]:
    names = candidates.collection.info.class_names
    classes, before = np.unique(labels[labels >= 0], return_counts=True)
    left, after = np.unique(labels[~removed & (labels >= 0)], return_counts=True)
    kept = dict(zip(left.tolist(), after.tolist(), strict=True))
    groups = [
        GroupCount(names[each] if each < len(names) else str(each), count, kept.get(each, 0))
        for each, count in zip(classes.tolist(), before.tolist(), strict=True)
    ]
    return tuple(sorted(groups, key=lambda group: -group.before))
