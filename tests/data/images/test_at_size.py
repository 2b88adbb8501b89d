"""Images of a smaller stage: the same crops, at another resolution."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.data import (
    EvalTransform,
    HorizontalFlip,
    NaFlexTrainTransform,
    RandomErasing,
    TrainTransform,
)
from clipkit.data.images.decode import Box, ImageDecoder
from tests.helpers.images import encode, photo

SIZES = (160, 112, 64)


def boxes(transform, data, monkeypatch) -> list[Box]:
    """The crops that a transform takes from an image, by seed."""
    seen: list[Box] = []
    with monkeypatch.context() as patch:
        patch.setattr(ImageDecoder, "_resized", lambda self, pixels, box, scale: _no(seen, box))
        for seed in range(12):
            transform(data, np.random.default_rng(seed))
    return seen


def _no(seen: list[Box], box: Box) -> torch.Tensor:
    seen.append(box)
    return torch.zeros(3, 1, 1, dtype=torch.uint8)


@pytest.mark.parametrize("width", [300, 500, 1200])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_crops_do_not_depend_on_the_size(width, kind, monkeypatch):
    data = encode(photo(width, width * 3 // 4), kind)
    full = TrainTransform(224, scale=(0.4, 1.0))
    expected = boxes(full, data, monkeypatch)
    assert len(set(expected)) == 12
    for size in SIZES:
        assert boxes(full.at_size(size), data, monkeypatch) == expected


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("width", [300, 500, 1200])
def test_pixels_are_those_of_the_crop_at_that_size(width, fast, monkeypatch):
    image = photo(width, width * 3 // 4)
    data = encode(image, "JPEG", quality=95)
    stored = Image.open(io.BytesIO(data)).convert("RGB")
    full = TrainTransform(224, scale=(0.4, 1.0), fast=fast)
    crops = boxes(full, data, monkeypatch)[:3]
    for size in SIZES:
        for seed, (left, top, columns, rows) in enumerate(crops):
            found = full.at_size(size)(data, np.random.default_rng(seed))
            assert found.shape == (3, size, size)
            exact = stored.resize(
                (size, size),
                Image.Resampling.BICUBIC,
                box=(left, top, left + columns, top + rows),
            )
            exact_pixels = torch.from_numpy(np.array(exact)).permute(2, 0, 1)
            error = (found.float() - exact_pixels.float()).abs().mean()
            assert error < (3.0 if fast else 0.01)


def test_at_its_own_size_nothing_changes():
    data = encode(photo(500, 400), "JPEG")
    full = TrainTransform(96, augmentations=[HorizontalFlip()])
    for seed in range(4):
        own, again = (
            one(data, np.random.default_rng(seed)) for one in (full, full.at_size(48).at_size(96))
        )
        assert torch.equal(own, again)
    assert full.image_size == 96
    assert full.at_size(48).image_size == 48


def test_flips_are_the_same_and_later_draws_too():
    data = encode(photo(500, 400), "JPEG")
    full = TrainTransform(96, augmentations=[HorizontalFlip(), RandomErasing(1.0, fill=(0, 0, 0))])
    for seed in range(4):
        ends = []
        for transform in (full, full.at_size(48)):
            rng = np.random.default_rng(seed)
            pixels = transform(data, rng).float()
            ends.append(rng.random())
        assert ends[0] == ends[1]
        small = torch.nn.functional.interpolate(
            full(data, np.random.default_rng(seed))[None].float(), (48, 48), mode="area"
        )[0]
        assert (small - pixels).abs().mean() < 12, "mirrored, or another crop"


def test_decoded_images_are_shared():
    data = encode(photo(100, 80), "PNG")
    full = TrainTransform(64, keep_decoded_mib=1)
    small = full.at_size(32)
    small(data, np.random.default_rng(0))
    assert full._decode._decoded.num_bytes == 100 * 80 * 3
    assert full._decode._decoded is small._decode._decoded


def test_transforms_without_sizes():
    assert EvalTransform(64).at_size(32) is None
    assert NaFlexTrainTransform(16, 16).at_size(32) is None
