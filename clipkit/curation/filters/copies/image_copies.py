"""Filters by the perceptual hash of the image: within the data, and against other data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Float32, Int64

from clipkit.collection import Collection
from clipkit.curation.candidates import Candidates
from clipkit.curation.filters.base import NOT_A_COPY, Decision, Filter
from clipkit.curation.filters.copies.image_sets import (
    NearImages,
    copies_in_sets,
    near_images,
    near_known_images,
)
from clipkit.curation.filters.copies.preference import copy_notes, preference
from clipkit.data.images.perceptual_hash import NUM_BITS, WIDTH, Signatures
from clipkit.errors import check_range
from clipkit.evaluation.building.duplicates.image_duplicates import (
    DuplicateImages,
    duplicate_images,
)

DEFAULT_BITS: Final = 24
MEASURE: Final = "Bits that differ, of 128"


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
        found = duplicate_images(signatures, self.max_distance, candidates.on_rows)
        copies = copies_in_sets(found, preference(candidates)[places])
        near = near_images(found, copies)
        copy_of = _at(places, len(candidates), copies, candidates.rows[places])
        return Decision(
            copy_of != NOT_A_COPY,
            _distances(places, len(candidates), near),
            MEASURE,
            (float(self.max_distance),),
            copy_of=copy_of,
            nearest=_at(places, len(candidates), near.images, candidates.rows[places]),
            notes=(*copy_notes(copy_of), *cut_note(found)),
        )


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
        both = np.concatenate([known, signatures])
        found = duplicate_images(both, self.max_distance, candidates.on_rows)
        near = near_known_images(found, len(known))
        copies = np.where(near.distances <= self.max_distance, near.images, NOT_A_COPY)
        copy_of = _at(places, len(candidates), copies, known_places)
        return Decision(
            copy_of != NOT_A_COPY,
            _distances(places, len(candidates), near),
            MEASURE,
            (float(self.max_distance),),
            copy_of=copy_of,
            nearest=_at(places, len(candidates), near.images, known_places),
            copies_from=str(self.collection),
            notes=cut_note(found),
        )


def signatures_of(candidates: Candidates) -> tuple[Signatures, Int64[np.ndarray, " images"]]:
    """Return the perceptual hashes of the candidates that have one, and their places."""
    signatures, is_known = candidates.hashes("image_signature", 8 * WIDTH)
    words = signatures[is_known].view("<u8").astype(np.uint64)
    return words, np.flatnonzero(is_known)


def cut_note(found: DuplicateImages) -> tuple[str, ...]:
    """Return a sentence about comparisons that were left out, if there are any."""
    if not found.num_cut:
        return ()
    return (
        f"{found.num_cut} comparisons of similar images were left out; some copies may be kept",
    )


def _at(
    places: Int64[np.ndarray, " images"],
    num_candidates: int,
    numbers: Int64[np.ndarray, " images"],
    rows: Int64[np.ndarray, " others"],
) -> Int64[np.ndarray, " candidates"]:
    """Return the rows of numbered images at the places of candidates; ``NOT_A_COPY`` for none."""
    at = np.full(num_candidates, NOT_A_COPY, dtype=np.int64)
    is_known = numbers != NOT_A_COPY
    at[places[is_known]] = rows[numbers[is_known]]
    return at


def _distances(
    places: Int64[np.ndarray, " images"], num_candidates: int, near: NearImages
) -> Float32[np.ndarray, " candidates"]:
    values: Float32[np.ndarray, " candidates"] = np.full(num_candidates, np.nan, np.float32)
    values[places] = near.distances
    return values
