"""Groups of samples that show the same image, from the copies that filters find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Int64

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
        method: How duplicates were found, with its limit.
        num_groups: Number of groups of several samples.
        num_copies: Number of samples that a filter removes: all but one of each group.
        largest: The largest groups.
        notes: Limits of the search.
    """

    kind: str
    method: str
    num_groups: int
    num_copies: int
    largest: tuple[DuplicateGroup, ...]
    notes: tuple[str, ...] = ()


def duplicate_facts(
    kind: str, method: str, copy_of: Int64[np.ndarray, " N"], notes: tuple[str, ...] = ()
) -> DuplicateFacts:
    """Group samples by the sample that they are a copy of.

    Args:
        kind: What is equal.
        method: How duplicates were found.
        copy_of: Row of the sample that each sample is a copy of; negative for others.
        notes: Limits of the search.

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
