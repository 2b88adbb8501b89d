"""Perceptual hashes against the definition, and on images that were changed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipkit.data.images.perceptual_hash import (
    NUM_BITS,
    centres,
    image_distances,
    image_signature,
    mirrored,
    popcount,
)
from clipkit.errors import SampleError
from tests.helpers.evaluation_data import picture


def drawing(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A soft drawing, as photos are: low frequencies carry most of it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def distance(one: bytes, other: bytes) -> int:
    first, second = image_signature(one)[None], image_signature(other)[None]
    return int(image_distances(first, second)[0])


def test_bits_are_the_signs_of_the_lowest_cosines():
    """An independent transform: the sums of the definition, in floating point."""
    image = drawing(0).convert("L").resize((32, 32))
    levels = np.asarray(image).astype(float)
    x = np.arange(32)
    grid = sorted(
        ((u, v) for u in range(17) for v in range(17) if u + v),
        key=lambda at: (at[0] ** 2 + at[1] ** 2, at),
    )[:128]
    expected = []
    for u, v in grid:
        wave = np.outer(np.cos(np.pi * (2 * x + 1) * u / 64), np.cos(np.pi * (2 * x + 1) * v / 64))
        expected.append((levels * wave).sum() > 0)
    signature = image_signature(stored(image))
    bits = np.unpackbits(signature[:2].astype("<u8").view(np.uint8))
    assert (bits != expected).sum() <= 1  # a coefficient near zero


@pytest.mark.parametrize(
    "change",
    [
        lambda image: stored(image.resize((160, 120), Image.Resampling.LANCZOS)),
        lambda image: stored(image.resize((97, 83))),
        lambda image: stored(image, "JPEG", quality=30),
        lambda image: stored(image, "WEBP", quality=40),
        lambda image: stored(image.convert("L")),
        lambda image: stored(image.convert("RGBA")),
        lambda image: stored(image.point(lambda level: min(255, int(1.15 * level)))),
    ],
    ids=["smaller", "other shape", "jpeg", "webp", "grey", "alpha", "brighter"],
)
def test_copies_have_nearly_equal_hashes(change):
    image = drawing(1)
    assert distance(stored(image), change(image)) <= 12


def test_mirrored_and_cropped_copies_are_recognised():
    image = drawing(2)
    own = image_signature(stored(image))[None]
    mirror = image_signature(stored(ImageOps.mirror(image)))[None]
    assert image_distances(mirrored(own), mirror)[0] <= 2
    assert image_distances(own, mirror)[0] > 40
    assert (mirrored(mirrored(own)) == own).all()
    cut = image_signature(stored(image.crop((16, 12, 304, 228))))[None]
    assert image_distances(centres(own), cut)[0] <= 2


def test_other_images_differ_in_about_half_of_the_bits():
    signatures = np.stack([image_signature(stored(drawing(seed))) for seed in range(3, 23)])
    first, second = np.triu_indices(20, 1)
    distances = image_distances(signatures[first], signatures[second])
    assert distances.min() > 32
    assert 56 <= np.median(distances) <= NUM_BITS


def test_equal_shapes_in_other_colours_are_other_images():
    def heart(color: tuple[int, int, int]) -> bytes:
        image = Image.new("RGB", (64, 64), "white")
        image.paste(color, (20, 10, 44, 54))
        return stored(image)

    assert distance(heart((200, 0, 0)), heart((0, 120, 220))) == NUM_BITS
    assert distance(heart((200, 0, 0)), heart((206, 6, 4))) == 0


def test_the_orientation_of_a_photo_is_applied():
    image = drawing(4)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left
    turned = stored(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    assert distance(stored(image), turned) <= 4


def test_flat_images_have_no_random_bits():
    white = Image.new("RGB", (50, 40), "white")
    assert distance(stored(white), stored(white.resize((99, 70)), "JPEG", quality=50)) == 0


def test_the_hash_is_the_same_on_every_machine():
    """Fixed values: a change of them changes every split that was built."""
    signature = image_signature(picture(5))
    assert [int(value) for value in signature] == KNOWN


def test_broken_and_huge_images_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good = stored(drawing(5), "JPEG")
    for broken in (b"", b"no image", good[: len(good) // 2]):
        with pytest.raises(SampleError):
            image_signature(broken)
    monkeypatch.setattr("clipkit.data.images.perceptual_hash.DEFAULT_MAX_PIXELS", 1000)
    with pytest.raises(SampleError, match="max_pixels"):
        image_signature(good)


def test_bits_are_counted_without_numpy_2(monkeypatch: pytest.MonkeyPatch):
    values = np.array([0, 1, 2**64 - 1, 0x8000000000000001, 12345], np.uint64)
    expected = [bin(int(value)).count("1") for value in values]
    assert popcount(values).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert popcount(values).tolist() == expected


KNOWN = [
    10744097894061915608,
    9141608105521754341,
    13922357303624154584,
    10717895325146477692,
    5431973774686187632,
]
