"""Filters by the perceptual hash of the image: within the data, and against other data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.collection import Collection
from clipkit.curation.candidates import Candidates
from clipkit.curation.filters.base import NOT_A_COPY, Decision, Filter
from clipkit.curation.filters.copies.arrow_bytes import fixed_bytes
from clipkit.curation.filters.copies.preference import (
    copies_of_equal,
    copies_of_pairs,
    preference,
    shown_counts,
)
from clipkit.data.images.perceptual_hash import NUM_BITS, WIDTH, Signatures
from clipkit.errors import check_range
from clipkit.evaluation.building.duplicates.image_duplicates import (
    DuplicateImages,
    duplicate_images,
)

DEFAULT_BITS: Final = 24
MEASURE: Final = "Bits that differ, of 128"
_SIGNATURE_BYTES: Final = 8 * WIDTH


@final
@dataclass(frozen=True, slots=True)
class ImageDuplicateFilter(Filter):
    """Keeps one of the samples whose images look alike: resized, recompressed, mirrored, cropped.

    Images are compared by their perceptual hashes. Of several copies, the image with the most
    pixels is kept, then the best score, then the first row. Each removed image looks like the one
    that is kept in its place. An image without a hash is kept.

    Args:
        max_distance: Number of bits of the hash, of 128, in which copies may differ.

    Raises:
        ConfigError: If it is not from 0 to 64.
    """

    max_distance: int = DEFAULT_BITS

    def __post_init__(self) -> None:
        check_range("image_duplicates", self.max_distance, 0, NUM_BITS // 2)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"one of images within {self.max_distance} of {NUM_BITS} bits"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove copies of images."""
        signatures, places = signatures_of(candidates)
        found = duplicate_images(signatures, self.max_distance)
        rank = preference(candidates)[places]
        copies = copies_in_sets(found, rank)
        copy_of = np.full(len(candidates), NOT_A_COPY, dtype=np.int64)
        is_copy = copies != NOT_A_COPY
        copy_of[places[is_copy]] = candidates.rows[places[copies[is_copy]]]
        notes = (shown_counts(copy_of), *cut_note(found))
        return Decision(copy_of != NOT_A_COPY, copy_of=copy_of, notes=notes)


@final
@dataclass(frozen=True, slots=True)
class KnownImageFilter(Filter):
    """Keeps samples whose images look like none of another collection, such as evaluation data.

    Images are compared by their perceptual hashes, which need no model. An image without a hash is
    kept.

    Args:
        collection: Folder of the other collection.
        max_distance: Number of bits of the hash, of 128, in which copies may differ.

    Raises:
        ConfigError: If ``max_distance`` is not from 0 to 64.
    """

    collection: Path
    max_distance: int = DEFAULT_BITS

    def __post_init__(self) -> None:
        check_range("not_in", self.max_distance, 0, NUM_BITS // 2)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"not within {self.max_distance} of {NUM_BITS} bits of {self.collection.name}"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove copies of the images of the other collection.

        Raises:
            DataError: If the other folder is no complete collection.
        """
        others = Candidates(Collection(self.collection))
        known, known_places = signatures_of(others)
        signatures, places = signatures_of(candidates)
        found = duplicate_images(np.concatenate([known, signatures]), self.max_distance)
        copies = copies_of_first(found, len(known))
        copy_of = np.full(len(candidates), NOT_A_COPY, dtype=np.int64)
        is_copy = copies != NOT_A_COPY
        copy_of[places[is_copy]] = known_places[copies[is_copy]]
        return Decision(
            copy_of != NOT_A_COPY,
            copy_of=copy_of,
            copies_from=str(self.collection),
            notes=cut_note(found),
        )


def signatures_of(candidates: Candidates) -> tuple[Signatures, Int64[np.ndarray, " images"]]:
    """Return the perceptual hashes of the candidates that have one, and their places."""
    signatures = np.zeros((len(candidates), _SIGNATURE_BYTES), dtype=np.uint8)
    is_known = np.zeros(len(candidates), dtype=np.bool_)
    for at, table in candidates.tables(["image_signature"]):
        column = table.column("image_signature")
        signatures[at], is_known[at] = fixed_bytes(column, _SIGNATURE_BYTES)
    words = signatures[is_known].view("<u8").astype(np.uint64)
    return words, np.flatnonzero(is_known)


def copies_in_sets(
    found: DuplicateImages, rank: Int64[np.ndarray, " images"]
) -> Int64[np.ndarray, " images"]:
    """Return the kept image that each image is a copy of; ``NOT_A_COPY`` for kept images.

    The images of a set have equal hashes; only the preferred one of a set is compared further.
    """
    equal = copies_of_equal(found.same[:, None], rank)
    preferred = np.flatnonzero(equal == NOT_A_COPY)
    of_set = np.empty(len(found.representatives), dtype=np.int64)
    of_set[found.same[preferred]] = preferred
    between = copies_of_pairs(found.pairs.first, found.pairs.second, rank[of_set])
    root = np.where(between == NOT_A_COPY, np.arange(len(between)), between)
    copies: Int64[np.ndarray, " images"] = of_set[root[found.same]]
    copies[copies == np.arange(len(copies))] = NOT_A_COPY
    return copies


def copies_of_first(found: DuplicateImages, num_known: int) -> Int64[np.ndarray, " images"]:
    """Return the known image that each other image is a copy of; ``NOT_A_COPY`` for none.

    Args:
        found: Duplicates among the known images, followed by the others.
        num_known: Number of known images.
    """
    known_of = np.full(len(found.representatives), NOT_A_COPY, dtype=np.int64)
    # In reverse, so that the first known image of a set is the one that stays.
    known_of[found.same[:num_known][::-1]] = np.arange(num_known)[::-1]
    copy_of = known_of.copy()
    order = np.argsort(-found.pairs.values, kind="stable")  # the nearest is written last
    ends = found.pairs.first[order], found.pairs.second[order]
    for own, other in (ends, ends[::-1]):
        takes = (known_of[own] == NOT_A_COPY) & (known_of[other] != NOT_A_COPY)
        copy_of[own[takes]] = known_of[other[takes]]
    copies: Int64[np.ndarray, " images"] = copy_of[found.same[num_known:]]
    return copies


def cut_note(found: DuplicateImages) -> tuple[str, ...]:
    """Return a sentence about comparisons that were left out, if there are any."""
    if not found.num_cut:
        return ()
    return (
        f"{found.num_cut} comparisons of similar images were left out; some copies may be kept",
    )
