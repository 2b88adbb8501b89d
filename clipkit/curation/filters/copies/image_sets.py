"""Copies and nearest images in the sets of equal images that the search by hash finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from clipkit.curation.filters.base import NOT_A_COPY
from clipkit.curation.filters.copies.preference import copies_of_equal, copies_of_pairs
from clipkit.evaluation.building.duplicates.image_duplicates import DuplicateImages
from clipkit.evaluation.building.duplicates.pair_search import NearPairs


@dataclass(frozen=True, slots=True)
class NearImages:
    """The nearest image of each of N images.

    Args:
        images: Number of the nearest image, of which a copy is removed; ``NOT_A_COPY`` if none was
            near enough to be compared.
        distances: Number of bits that differ; NaN without such an image.
    """

    images: Int64[np.ndarray, " N"]
    distances: Float32[np.ndarray, " N"]


def copies_in_sets(
    found: DuplicateImages, rank: Int64[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """Return the kept image that each image is a copy of; ``NOT_A_COPY`` for kept images.

    The images of a set have equal hashes; only the preferred one of a set is compared further.

    Args:
        found: Sets of equal images, and pairs of sets that look alike.
        rank: Rank of each image: of several copies, the one with the lowest is kept.
    """
    of_set = _preferred(found, rank)
    between = copies_of_pairs(found.pairs.first, found.pairs.second, rank[of_set])
    root = np.where(between == NOT_A_COPY, np.arange(len(between)), between)
    copies: Int64[np.ndarray, " N"] = of_set[root[found.same]]
    copies[copies == np.arange(len(copies))] = NOT_A_COPY
    return copies


def near_images(found: DuplicateImages, copies: Int64[np.ndarray, " N"]) -> NearImages:
    """Return the image that each copy is a copy of, and the nearest kept image of kept ones.

    Args:
        found: Sets of equal images, and pairs of sets that look alike or nearly do.
        copies: The result of ``copies_in_sets``.
    """
    num_sets = len(found.representatives)
    images = copies.copy()
    distances = np.full(len(copies), np.nan, dtype=np.float32)
    kept, removed = np.flatnonzero(copies == NOT_A_COPY), np.flatnonzero(copies != NOT_A_COPY)
    sets, kept_sets = found.same[removed], found.same[copies[removed]]
    distances[removed] = _pair_values(found.pairs, sets, kept_sets, num_sets)
    of_set = np.full(num_sets, NOT_A_COPY, dtype=np.int64)
    of_set[found.same[kept]] = kept
    misses = found.near_misses
    nearest, values = _nearest_sets(misses, of_set != NOT_A_COPY, of_set != NOT_A_COPY)
    has_near = kept[nearest[found.same[kept]] != NOT_A_COPY]
    images[has_near] = of_set[nearest[found.same[has_near]]]
    distances[has_near] = values[found.same[has_near]]
    return NearImages(images, distances)


def near_known_images(found: DuplicateImages, num_known: int) -> NearImages:
    """Return the nearest known image of each other image.

    Args:
        found: Duplicates among the known images, followed by the others.
        num_known: Number of known images.

    Returns:
        Numbers of known images, for the images after the known ones.
    """
    num_sets = len(found.representatives)
    known_of = np.full(num_sets, NOT_A_COPY, dtype=np.int64)
    # In reverse, so that the first known image of a set is the one that stays.
    known_of[found.same[:num_known][::-1]] = np.arange(num_known)[::-1]
    is_known = known_of != NOT_A_COPY
    parts = (found.pairs, found.near_misses)
    pairs = NearPairs(
        np.concatenate([each.first for each in parts]),
        np.concatenate([each.second for each in parts]),
        np.concatenate([each.values for each in parts]),
    )
    nearest, values = _nearest_sets(pairs, ~is_known, is_known)
    images, is_near = known_of.copy(), nearest != NOT_A_COPY
    images[is_near] = known_of[nearest[is_near]]
    values[is_known] = 0.0
    others = found.same[num_known:]
    return NearImages(images[others], values[others])


def _preferred(found: DuplicateImages, rank: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " sets"]:
    """Return the preferred image of each set."""
    equal = copies_of_equal(found.same[:, None], rank)
    preferred = np.flatnonzero(equal == NOT_A_COPY)
    of_set = np.empty(len(found.representatives), dtype=np.int64)
    of_set[found.same[preferred]] = preferred
    return of_set


def _nearest_sets(
    pairs: NearPairs, owns: Bool[np.ndarray, " sets"], others: Bool[np.ndarray, " sets"]
) -> tuple[Int64[np.ndarray, " sets"], Float32[np.ndarray, " sets"]]:
    """Return the nearest set of each set, and its distance, of pairs of an own and another set."""
    nearest = np.full(len(owns), NOT_A_COPY, dtype=np.int64)
    values: Float32[np.ndarray, " sets"] = np.full(len(owns), np.nan, dtype=np.float32)
    first = np.concatenate([pairs.first, pairs.second])
    second = np.concatenate([pairs.second, pairs.first])
    distances = np.concatenate([pairs.values, pairs.values])
    usable = np.flatnonzero(owns[first] & others[second])
    # The nearest is written last; of equally near ones, the set with the lowest number.
    order = usable[np.lexsort((-second[usable], -distances[usable]))]
    nearest[first[order]], values[first[order]] = second[order], distances[order]
    return nearest, values


def _pair_values(
    pairs: NearPairs,
    first: Int64[np.ndarray, " pairs"],
    second: Int64[np.ndarray, " pairs"],
    num_sets: int,
) -> Float32[np.ndarray, " pairs"]:
    """Return the distances of pairs of sets; 0 for a set and itself."""
    codes = pairs.first * num_sets + pairs.second  # in ascending order, first below second
    wanted = np.minimum(first, second) * num_sets + np.maximum(first, second)
    values: Float32[np.ndarray, " pairs"] = np.zeros(len(wanted), dtype=np.float32)
    differ = first != second
    values[differ] = pairs.values[np.searchsorted(codes, wanted[differ])]
    return values
