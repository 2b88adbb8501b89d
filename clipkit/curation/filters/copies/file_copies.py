"""A filter by the hash of the image's file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np

from clipkit.curation.candidates import Candidates
from clipkit.curation.filters.base import NOT_A_COPY, Decision, Filter
from clipkit.curation.filters.copies.preference import (
    copies_of_equal,
    copy_notes,
    preference,
)

_HASH_BYTES: Final = 32


@final
@dataclass(frozen=True, slots=True)
class FileDuplicateFilter(Filter):
    """Keeps one of the samples whose image files are equal, byte by byte (SHA-256).

    Of several copies, the image with the most pixels is kept, then the best score, then the first
    row. An image without a hash is kept.
    """

    @property
    def description(self) -> str:
        """What is kept."""
        return "one of equal image files"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove copies of files."""
        hashes, is_known = candidates.hashes("image_sha256", _HASH_BYTES)
        places = np.flatnonzero(is_known)
        rank = preference(candidates)[places]
        copies = copies_of_equal(hashes[places].view("<u8"), rank)
        copy_of = np.full(len(candidates), NOT_A_COPY, dtype=np.int64)
        is_copy = copies != NOT_A_COPY
        copy_of[places[is_copy]] = candidates.rows[places[copies[is_copy]]]
        return Decision(copy_of != NOT_A_COPY, copy_of=copy_of, notes=copy_notes(copy_of))
