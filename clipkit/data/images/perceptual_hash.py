"""Perceptual hashes: images that look alike have nearly equal bits, whatever their files contain.

The bits are the signs of the lowest frequencies of the brightness (Zauner 2010, "Implementation and
benchmarking of perceptual image hash functions", section 3.1). All arithmetic is of integers, so
that one file has one hash on every machine.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Int64, UInt64
from PIL import Image

from clipkit.data.images.formats import (
    DEFAULT_MAX_PIXELS,
    WHITE,
    Orientation,
    image_faults,
    open_image,
    orientation_of,
    to_rgb,
)

Signatures = UInt64[np.ndarray, "N 5"]
"""Bits of the complete image (2), bits of its centre (2), colours of its quarters (1)."""

NUM_BITS: Final = 128
WIDTH: Final = 5
"""Number of 64-bit integers of a signature."""
_COMPLETE: Final = slice(0, 2)
_CENTRE: Final = slice(2, 4)
_COLOURS: Final = 4

_SIDE: Final = 32
_MAX_FREQUENCY: Final = 16
_CENTRE_SHARE: Final = 0.9
"""Side of the centre; its hash is that of a copy whose edges were cut off."""
_DRAFT_SIDE: Final = 256
_NEUTRAL: Final = 128
_GREY: Final = 10
"""Largest distance of a chroma value of a grey image from the neutral one."""
_COLOUR_DISTANCE: Final = 24
"""Largest difference of the chroma, of 255, of copies of an image."""


def _frequencies() -> tuple[Int64[np.ndarray, " bits"], Int64[np.ndarray, " bits"]]:
    """Return row and column of the lowest frequencies, without the mean."""
    grid = [(u, v) for u in range(_MAX_FREQUENCY + 1) for v in range(_MAX_FREQUENCY + 1)]
    lowest = sorted(grid[1:], key=lambda at: (at[0] ** 2 + at[1] ** 2, at))[:NUM_BITS]
    rows, columns = zip(*lowest, strict=True)
    return np.array(rows), np.array(columns)


_ROWS, _COLUMNS = _frequencies()
_COSINES: Final = np.rint(
    1024
    * np.cos(
        np.pi
        * np.arange(_MAX_FREQUENCY + 1)[:, None]
        * (2 * np.arange(_SIDE)[None, :] + 1)
        / (2 * _SIDE)
    )
).astype(np.int64)


def _as_integers(bits: np.ndarray) -> UInt64[np.ndarray, " words"]:
    return np.packbits(bits).view("<u8").astype(np.uint64)


_MIRROR: Final = _as_integers(_COLUMNS % 2 == 1)
"""Bits that differ between an image and its mirror image: the odd horizontal frequencies."""


def image_signature(data: bytes) -> UInt64[np.ndarray, " 5"]:
    """Return the signature of an image file: one row of ``Signatures``.

    Args:
        data: Bytes of the image file.

    Raises:
        SampleError: If the image cannot be decoded.

    Examples:
        >>> image = Path("dog.jpg").read_bytes()
        >>> signatures = np.stack([image_signature(image)] * 2)
        >>> image_distances(signatures[:1], signatures[1:])
        array([0])
    """
    image = open_image(data, DEFAULT_MAX_PIXELS)
    turn = orientation_of(image, data)
    draft(image)
    return opened_signature(image, turn)


def draft(image: Image.Image) -> bool:
    """Have an opened JPEG decoded at the scale of its signature; return whether it is reduced."""
    size = image.size
    with image_faults("image is truncated or damaged"):
        image.draft("RGB", (_DRAFT_SIDE, _DRAFT_SIDE))
    return image.size != size


def opened_signature(image: Image.Image, turn: Orientation | None) -> UInt64[np.ndarray, " 5"]:
    """Return the signature of an opened image on which ``draft`` was called.

    Args:
        image: The image.
        turn: Its orientation; None if it is upright.

    Raises:
        SampleError: If the image cannot be decoded.
    """
    pixels = to_rgb(image, WHITE)
    pixels = pixels.transpose(turn.method) if turn else pixels
    cut = [round(side * (1 - _CENTRE_SHARE) / 2) for side in pixels.size]
    centre = (cut[0], cut[1], pixels.width - cut[0], pixels.height - cut[1])
    grey = pixels.convert("L")
    quarters = pixels.resize((2, 2), Image.Resampling.BOX).convert("YCbCr")
    colours = np.ascontiguousarray(np.asarray(quarters)[..., 1:])
    parts = [_bits(grey), _bits(grey.crop(centre)), colours.reshape(-1).view("<u8")]
    return np.concatenate(parts).astype(np.uint64)


def _bits(grey: Image.Image) -> UInt64[np.ndarray, " 2"]:
    small = grey.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    levels = np.asarray(small).astype(np.int64)
    waves = _COSINES @ levels @ _COSINES.T
    return _as_integers(waves[_ROWS, _COLUMNS] > 0)


def mirrored(signatures: Signatures) -> Signatures:
    """Return the signatures of the mirror images."""
    turned = signatures.copy()
    turned[:, _COMPLETE] ^= _MIRROR
    turned[:, _CENTRE] ^= _MIRROR
    colours = _colours(signatures)[:, [2, 3, 0, 1, 6, 7, 4, 5]]
    turned[:, _COLOURS] = np.ascontiguousarray(colours).view("<u8")[:, 0]
    return turned


def centres(signatures: Signatures) -> Signatures:
    """Return the signatures of the images without their edges."""
    return signatures[:, [2, 3, 2, 3, 4]]


def image_distances(first: Signatures, second: Signatures) -> Int64[np.ndarray, " N"]:
    """Count the bits that differ, of 128; 128 if the colours are those of different images.

    Unrelated images differ in 64 bits on average. Colours are compared unless one of the images is
    grey, so that a copy without colours counts as a copy.
    """
    differing: Int64[np.ndarray, " N"] = popcount(first[:, _COMPLETE] ^ second[:, _COMPLETE]).sum(
        1, dtype=np.int64
    )
    one, other = (_colours(each).astype(np.int16) for each in (first, second))
    is_grey = [np.abs(each - _NEUTRAL).max(1) <= _GREY for each in (one, other)]
    differs = np.abs(one - other).max(1) > _COLOUR_DISTANCE
    differing[differs & ~is_grey[0] & ~is_grey[1]] = NUM_BITS
    return differing


def are_within(
    bits: UInt64[np.ndarray, "2 N"], first: np.ndarray, second: np.ndarray, most: int
) -> Bool[np.ndarray, " pairs"]:
    """Return which pairs of rows differ in at most ``most`` bits, without a look at colours.

    Args:
        bits: The two columns of bits of the complete images.
        first: First row of each pair.
        second: Second row of each pair.
        most: Number of bits.
    """
    parts = [popcount(column[first] ^ column[second]) for column in bits]
    near: Bool[np.ndarray, " pairs"] = parts[0] + parts[1] <= most
    return near


def popcount(values: UInt64[np.ndarray, "*shape"]) -> np.ndarray:
    """Count the bits that are set in each integer; NumPy 1 has no function for it."""
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(values))
    pairs = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    mask = np.uint64(0x3333333333333333)
    fours = (pairs & mask) + ((pairs >> np.uint64(2)) & mask)
    bytes_ = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.asarray((bytes_ * np.uint64(0x0101010101010101)) >> np.uint64(56))


def _colours(signatures: Signatures) -> np.ndarray:
    """Return the two chroma values of each quarter, row by row."""
    column = np.ascontiguousarray(signatures[:, _COLOURS], dtype="<u8")
    return column.view(np.uint8).reshape(len(signatures), 8)
