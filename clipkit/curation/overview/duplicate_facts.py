"""Groups of samples that show the same image, from the copies that filters find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Int64

from clipkit.collection import Collection
from clipkit.curation.candidates import Candidates
from clipkit.curation.filters import (
    EmbeddingDuplicateFilter,
    FileDuplicateFilter,
    Filter,
    ImageDuplicateFilter,
)
from clipkit.curation.filters.base import NOT_A_COPY

FILE: Final = "file"
APPEARANCE: Final = "appearance"
EMBEDDING: Final = "embedding"
_SHOWN_GROUPS: Final = 12
_SHOWN_MEMBERS: Final = 6


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Samples that show the same image.

    Args:
        size: Number of samples.
        rows: Rows of the first samples, the one that a filter keeps first.
    """

    size: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DuplicateFacts:
    """Duplicates of one kind.

    Args:
        kind: What is equal: "file", "appearance" or "embedding".
        method: What a filter keeps, with its limit.
        num_groups: Number of groups of several samples.
        num_copies: Number of samples that a filter removes: all but one of each group.
        largest: The largest groups.
        notes: What the filter reports.
    """

    kind: str
    method: str
    num_groups: int
    num_copies: int
    largest: tuple[DuplicateGroup, ...]
    notes: tuple[str, ...] = ()


def find_duplicates(
    collection: Collection, on_rows: Callable[[int, int], None]
) -> tuple[DuplicateFacts, ...]:
    """Find duplicates by file, then by appearance, then by embedding, each among those left.

    The limits are those of the filters: what the page shows is what they remove.

    Args:
        collection: The collection.
        on_rows: Shows the progress of a filter, by completed and all rows.

    Raises:
        DataError: If a file of the collection is missing or damaged.
    """
    filters: dict[str, Filter] = {
        FILE: FileDuplicateFilter(),
        APPEARANCE: ImageDuplicateFilter(),
        EMBEDDING: EmbeddingDuplicateFilter(),
    }
    candidates = Candidates(collection, np.flatnonzero(collection.embedded_rows()), on_rows)
    facts = []
    for kind, each in filters.items():
        decision = each.decide(candidates)
        assert decision.copy_of is not None
        copy_of = np.full(len(collection), NOT_A_COPY, dtype=np.int64)
        copy_of[candidates.rows] = decision.copy_of
        facts.append(duplicate_facts(kind, each.description, copy_of, decision.notes))
        candidates = candidates.some(~decision.removed)
    return tuple(facts)


def duplicate_facts(
    kind: str, method: str, copy_of: Int64[np.ndarray, " N"], notes: tuple[str, ...] = ()
) -> DuplicateFacts:
    """Group samples by the sample that they are a copy of.

    Args:
        kind: What is equal.
        method: How duplicates were found.
        copy_of: Row of the sample that each sample is a copy of; negative for others.
        notes: What the filter reports.

    Examples:
        >>> facts = duplicate_facts("file", "SHA-256", np.array([-1, 0, -1, 0, 2]))
        >>> facts.num_groups, facts.num_copies, facts.largest[0].rows
        (2, 3, (0, 1, 3))
    """
    copies = np.flatnonzero(copy_of >= 0)
    originals, counts = np.unique(copy_of[copies], return_counts=True)
    largest = []
    for place in np.argsort(-counts, kind="stable")[:_SHOWN_GROUPS].tolist():
        rows = copies[copy_of[copies] == originals[place]][: _SHOWN_MEMBERS - 1]
        shown = (int(originals[place]), *rows.tolist())
        largest.append(DuplicateGroup(int(counts[place]) + 1, shown))
    return DuplicateFacts(kind, method, len(originals), len(copies), tuple(largest), notes)
