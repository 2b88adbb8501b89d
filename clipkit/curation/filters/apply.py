"""Apply filters one after the other, and count what each removes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, UInt8

from clipkit.collection import Collection
from clipkit.curation.candidates import Candidates, OnRows, no_progress
from clipkit.curation.filters.base import Decision, Filter
from clipkit.curation.filters.readable import ReadableFilter
from clipkit.errors import ConfigError, DataError

MAX_FILTERS: Final = 255
"""Numbers of filters that fit into one byte per sample."""

OnDecision = Callable[[Filter, Candidates, Decision], None]
"""Called with each filter, the candidates it saw, and its decision."""


@dataclass(frozen=True, slots=True)
class FilterOutcome:
    """What a filter removed.

    Args:
        description: Description of the filter.
        num_removed: Number of samples that it removed.
        num_kept: Number of samples that are left after it.
        notes: Sentences about its decision.
    """

    description: str
    num_removed: int
    num_kept: int
    notes: tuple[str, ...] = ()

    @property
    def share_removed(self) -> float:
        """Share that was removed, of the samples that the previous filters kept."""
        return self.num_removed / max(1, self.num_removed + self.num_kept)


@dataclass(frozen=True, slots=True)
class Filtered:
    """The result of filters on N samples.

    Args:
        removed_by: Number of the filter, from 1, that removed each sample; 0 if it is kept.
        outcomes: What each filter removed.
    """

    removed_by: UInt8[np.ndarray, " N"]
    outcomes: tuple[FilterOutcome, ...]

    @property
    def kept(self) -> Bool[np.ndarray, " N"]:
        """Whether each sample is kept."""
        kept: Bool[np.ndarray, " N"] = self.removed_by == 0
        return kept


def apply_filters(
    collection: Collection,
    filters: Sequence[Filter],
    on_rows: OnRows = no_progress,
    on_decision: OnDecision | None = None,
) -> Filtered:
    """Apply filters in their order; each decides on the samples that those before it kept.

    Samples that could not be embedded are removed first, by ``ReadableFilter``. Embeddings and
    tables are read shard by shard; memory holds some bytes per sample.

    Args:
        collection: The collection.
        filters: The filters.
        on_rows: Called with the numbers of completed and of all rows of each filter.
        on_decision: Called after each filter, to look at what it removed; None for no call.

    Returns:
        Which filter removed each sample, and what each filter removed.

    Raises:
        ConfigError: If there are more filters than a mask can number, or an option of a filter does
            not fit the collection.
        DataError: If no sample is left, or the collection lacks what a filter needs.
    """
    chain = (ReadableFilter(), *filters)
    if len(chain) > MAX_FILTERS:
        raise ConfigError(
            f"filters: expected at most {MAX_FILTERS - 1}, got {len(filters)}; write two masks"
        )
    removed_by: UInt8[np.ndarray, " N"] = np.zeros(len(collection), dtype=np.uint8)
    outcomes: list[FilterOutcome] = []
    candidates = Candidates(collection, on_rows=on_rows)
    for number, each in enumerate(chain, start=1):
        decision = each.decide(candidates)
        removed = decision.removed
        removed_by[candidates.rows[removed]] = number
        num_removed = int(removed.sum())
        outcomes.append(
            FilterOutcome(
                each.description, num_removed, len(candidates) - num_removed, decision.notes
            )
        )
        if on_decision is not None:
            on_decision(each, candidates, decision)
        if num_removed == len(candidates):
            raise DataError(_nothing_left(collection, outcomes))
        candidates = candidates.some(~removed) if num_removed else candidates
    return Filtered(removed_by, tuple(outcomes))


def _nothing_left(collection: Collection, outcomes: Sequence[FilterOutcome]) -> str:
    counts = ", ".join(f"{each.description!r}: {each.num_removed}" for each in outcomes)
    return (
        f"{collection.folder}: expected filters that keep some samples, got none of "
        f"{len(collection)} (removed by {counts}); loosen the last filter"
    )
