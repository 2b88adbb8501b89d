"""Near-duplicate images: by perceptual hash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Int64, UInt64

from clipkit.data.images.perceptual_hash import (
    NUM_BITS,
    Signatures,
    centres,
    image_distances,
    mirrored,
)
from clipkit.evaluation.building.duplicates.pair_search import (
    NearPairs,
    PairSearch,
    bands,
    distinct_pairs,
    equal_rows,
)

NEAR_MISS_BITS: Final = 8
"""Pairs up to this many bits above the limit are reported, for people to judge."""
_ROWS_PER_BUCKET: Final = 256
_FEWEST_BITS: Final = 2
_MOST_BITS: Final = 16
_LONG_BITS: Final = 8
_EVEN: Final = np.uint64(0x5555555555555555)


@dataclass(slots=True)
class DuplicateImages:
    """Images that look alike.

    Args:
        same: For each of the N images, the number of its set of images with equal signatures.
        pairs: Pairs of sets whose distance is within the limit; values are distances in bits.
        near_misses: Pairs of sets with distances just above the limit.
        representatives: First image of each set.
        num_cut: Number of comparisons that were cut off; see ``PairSearch``.
    """

    same: Int64[np.ndarray, " N"]
    pairs: NearPairs
    near_misses: NearPairs
    representatives: Int64[np.ndarray, " distinct"]
    num_cut: int


def duplicate_images(
    signatures: Signatures,
    max_distance: int,
    on_part: Callable[[int, int], None] | None = None,
) -> DuplicateImages:
    """Find images that differ in at most ``max_distance`` of 128 bits, also mirrored or cropped.

    Args:
        signatures: Signature of each image, by ``image_signature``.
        max_distance: Number of bits that may differ.
        on_part: Called after each part of the bits that was searched, with the numbers of completed
            and of all parts; None for no call.
    """
    firsts, same = equal_rows(signatures)
    distinct = signatures[firsts]
    entries = np.concatenate([distinct, mirrored(distinct), centres(distinct)])
    bits = entries[:, :2]
    most = min(max_distance + NEAR_MISS_BITS, NUM_BITS - 1)
    search, found = PairSearch(), list[NearPairs]()
    num_bits = _band_bits(len(entries))
    num_parts = (2 if num_bits >= _LONG_BITS else 1) * (NUM_BITS // num_bits)
    for number, values in enumerate(_parts(bits, num_bits), start=1):
        for first, second in search.pairs(values, bits, most):
            found.append(_near(entries, first, second, most))
        found = [distinct_pairs(found, len(distinct), smallest=True)]
        if on_part is not None:
            on_part(number, num_parts)
    near = distinct_pairs(found, len(distinct), smallest=True)
    within = near.values <= max_distance
    return DuplicateImages(
        same, _chosen(near, within), _chosen(near, ~within), firsts, search.num_cut
    )


def _parts(bits: UInt64[np.ndarray, "N 2"], num_bits: int) -> Iterator[UInt64[np.ndarray, " N"]]:
    """Yield parts of the bits; long ones from a second division, which finds most of the rest."""
    yield from bands(bits, num_bits)
    if num_bits >= _LONG_BITS:
        first, second = bits.T
        mixed = [(first & _EVEN) | (second & ~_EVEN), (second & _EVEN) | (first & ~_EVEN)]
        yield from bands(np.stack(mixed, 1), num_bits)


def _band_bits(num_entries: int) -> int:
    """Return the bits in which two images must agree to be compared: fewer for fewer images."""
    wanted = int(np.log2(max(1, num_entries / _ROWS_PER_BUCKET)))
    return min(max(wanted, _FEWEST_BITS), _MOST_BITS)


def _near(entries: Signatures, first: np.ndarray, second: np.ndarray, most: int) -> NearPairs:
    """Compare pairs of entries: images as they are, mirrored images, and images without edges."""
    num_images = len(entries) // 3
    kinds, owners = (
        (first // num_images, second // num_images),
        (first % num_images, second % num_images),
    )
    # Two mirrored images are as far apart as the images; two centres show less than the images.
    useful = (owners[0] != owners[1]) & ((kinds[0] != kinds[1]) | (kinds[0] == 0))
    distances = image_distances(entries[first[useful]], entries[second[useful]])
    near = distances <= most
    return NearPairs(owners[0][useful][near], owners[1][useful][near], distances[near])


def _chosen(pairs: NearPairs, chosen: np.ndarray) -> NearPairs:
    return NearPairs(pairs.first[chosen], pairs.second[chosen], pairs.values[chosen])
