"""Crops in training, pixels in evaluation, and their independence of who makes them."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipkit.data.images.augment import ColorJitter, Grayscale, HorizontalFlip, RandomErasing
from clipkit.data.images.augment_geometry import RandomAffine, RandomPerspective
from clipkit.data.images.crops import random_crop, resized_size
from clipkit.data.images.rand_augment import RandAugment
from clipkit.data.images.transforms import (
    EvalTransform,
    TrainTransform,
)
from clipkit.errors import ConfigError, SampleError
from tests.helpers.factories import image_bytes
from tests.helpers.images import color, encode, photo

RNG = np.random.default_rng(0)  # for transforms that draw nothing


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (50, 50), (20, 33), (640, 480), (300, 7)])
def test_evaluation_pixels_equal_open_clips(
    size: tuple[int, int], mode: str, interpolation: str
) -> None:
    from open_clip.transform import image_transform

    data = encode(photo(*size, seed=size[0]), "JPEG", quality=92)
    theirs = image_transform(
        48, False, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), mode, interpolation, fill_color=0
    )(Image.open(io.BytesIO(data)).convert("RGB"))
    ours = EvalTransform(48, mode, interpolation)(data, RNG)
    assert torch.equal(ours, (theirs * 255).round().to(torch.uint8))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1"])
def test_evaluation_pixels_equal_open_clips_in_every_mode(mode: str) -> None:
    from open_clip.transform import image_transform

    image = photo(90, 70).convert(mode)
    data = encode(image, "JPEG" if mode == "CMYK" else "PNG")
    theirs = image_transform(32, False, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(
        Image.open(io.BytesIO(data)).convert("RGB")
    )
    ours = EvalTransform(32)(data, RNG)
    assert torch.equal(ours, (theirs * 255).round().to(torch.uint8))


def test_evaluation_reveals_or_covers_what_is_transparent() -> None:
    data = encode(Image.new("RGBA", (20, 20), (10, 20, 30, 0)), "PNG")
    assert color(EvalTransform(8)(data, RNG)) == [10, 20, 30]
    assert color(EvalTransform(8, background=(255, 255, 255))(data, RNG)) == [255, 255, 255]


def test_evaluation_turns_pictures_upright() -> None:
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = EvalTransform(16, "squash")(encode(image, "PNG", exif=exif), RNG)
    assert color(upright[:, :6]) == [255, 0, 0]
    assert color(upright[:, 10:]) == [0, 0, 255]


def test_evaluation_draws_no_random_numbers() -> None:
    rng = np.random.default_rng(1)
    EvalTransform(16)(image_bytes(), rng)
    assert rng.random() == np.random.default_rng(1).random()


def test_crops_are_spread_as_asked() -> None:
    rng = np.random.default_rng(0)
    width, height = 300, 200
    boxes = [
        random_crop(rng.random((10, 4)), width, height, (0.2, 0.6), (0.8, 1.25))
        for _ in range(3000)
    ]
    areas = np.array([box.width * box.height / (width * height) for box in boxes])
    ratios = np.array([box.width / box.height for box in boxes])
    assert areas.min() >= 0.19
    assert areas.max() <= 0.61
    assert abs(areas.mean() - 0.4) < 0.01
    assert ratios.min() >= 0.77
    assert ratios.max() <= 1.3
    assert abs(np.log(ratios).mean()) < 0.02
    places = np.array([box.left / max(1, width - box.width) for box in boxes])
    assert abs(places.mean() - 0.5) < 0.02
    assert all(box.left + box.width <= width and box.top + box.height <= height for box in boxes)
    assert {0, 1} <= {int(place) for place in places}  # both edges are reached


def test_a_crop_that_never_fits_is_the_middle() -> None:
    rng = np.random.default_rng(0)
    box = random_crop(rng.random((10, 4)), 1000, 10, (0.9, 1.0), (3 / 4, 4 / 3))
    assert box == (493, 0, 13, 10)
    assert random_crop(rng.random((10, 4)), 1, 1, (0.9, 1.0), (3 / 4, 4 / 3)) == (0, 0, 1, 1)


def test_resized_size_rounds_like_open_clip() -> None:
    assert resized_size(640, 427, 224, "shortest") == (335, 224)
    assert resized_size(640, 427, 224, "longest") == (224, 149)
    assert resized_size(640, 427, 224, "squash") == (224, 224)


def full_transform() -> TrainTransform:
    return TrainTransform(
        32,
        (0.4, 1.0),
        augmentations=[
            HorizontalFlip(),
            ColorJitter(0.4, 0.4, 0.4, 0.1),
            Grayscale(),
            RandomAffine(20, 0.1, (0.8, 1.2), 5),
            RandomPerspective(),
            RandAugment(),
            RandomErasing(0.5),
        ],
        random_background_probability=0.5,
    )


def test_a_sample_looks_the_same_whoever_makes_it() -> None:
    data = [encode(photo(80, 60, seed), "JPEG") for seed in range(8)]
    data += [encode(photo(80, 60, seed).convert("LA"), "PNG") for seed in range(8)]

    def make(number: int) -> torch.Tensor:
        torch.manual_seed(torch.randint(1000, ()).item())  # somebody else's random numbers
        return transform(data[number % 16], np.random.default_rng(number))

    transform = full_transform()
    first = [make(number) for number in range(64)]
    copy: TrainTransform = pickle.loads(pickle.dumps(transform))
    backwards = [copy(data[n % 16], np.random.default_rng(n)) for n in reversed(range(64))][::-1]
    with ThreadPoolExecutor(4) as pool:
        threads = list(pool.map(make, range(64)))
    for one, two, three in zip(first, backwards, threads, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    assert not torch.equal(first[0], make(16))  # another generator, another crop


def test_results_are_plain_pixels() -> None:
    for transform in (full_transform(), EvalTransform(32)):
        pixels = transform(image_bytes(size=(70, 50)), np.random.default_rng(0))
        assert pixels.shape == (3, 32, 32)
        assert pixels.dtype == torch.uint8
        assert pixels.is_contiguous()
        assert transform.image_size == 32


def test_random_backgrounds() -> None:
    data = encode(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG")
    transform = TrainTransform(8, random_background_probability=0.5)
    colors = [tuple(color(transform(data, np.random.default_rng(n)))) for n in range(60)]
    assert 15 < colors.count((255, 255, 255)) < 45
    assert len(set(colors)) > 10
    opaque = encode(Image.new("RGB", (20, 20), (1, 2, 3)), "PNG")
    assert color(transform(opaque, np.random.default_rng(0))) == [1, 2, 3]


def test_a_crop_does_not_depend_on_how_the_picture_is_decoded() -> None:
    data = encode(photo(400, 300), "JPEG", quality=95)
    fast, exact = TrainTransform(48, (0.3, 1.0)), TrainTransform(48, (0.3, 1.0), fast=False)
    for seed in range(10):
        one = fast(data, np.random.default_rng(seed)).float()
        two = exact(data, np.random.default_rng(seed)).float()
        assert (one - two).abs().mean() < 5


@pytest.mark.parametrize("size", [32, 48])
def test_large_crops_lie_on_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Decoded at a reduced scale, they are resized without Pillow; the crop is the exact path's."""
    data = encode(photo(803, 597), "JPEG", quality=95)
    fast, exact = TrainTransform(size, (0.5, 1.0)), TrainTransform(size, (0.5, 1.0), fast=False)
    expected = [exact(data, np.random.default_rng(seed)).float() for seed in range(20)]
    monkeypatch.setattr(Image.Image, "resize", None)
    differences = [
        (fast(data, np.random.default_rng(seed)).float() - pixels).abs().mean().item()
        for seed, pixels in enumerate(expected)
    ]
    assert np.mean(differences) <= 2.5
    assert max(differences) <= 5.0


@pytest.mark.real_data
@pytest.mark.parametrize("size", [64, 224])
def test_training_crops_of_photos_are_close_to_the_exact_ones(real_data: Path, size: int) -> None:
    paths = [
        *(real_data / "photos").glob("*.jpg"),
        *(real_data / "imagenet_samples").glob("*.JPEG"),
    ]
    fast, exact = TrainTransform(size), TrainTransform(size, fast=False)
    differences = []
    for seed, path in enumerate(sorted(paths)):
        pixels = [make(path.read_bytes(), np.random.default_rng(seed)) for make in (fast, exact)]
        differences.append((pixels[0].float() - pixels[1].float()).abs().mean().item())
    assert len(differences) >= 10
    assert np.mean(differences) <= 2.5


def test_bad_pictures_and_options() -> None:
    with pytest.raises(SampleError, match=r"(?i)truncated"):
        TrainTransform(8)(image_bytes()[:500], np.random.default_rng(0))
    with pytest.raises(SampleError, match=r"(?i)truncated"):
        EvalTransform(8)(image_bytes()[:500], RNG)
    with pytest.raises(ConfigError, match=r"TrainTransform\.scale: expected"):
        TrainTransform(8, (0.9, 0.5))
    with pytest.raises(ConfigError, match="probability: expected"):
        TrainTransform(8, random_background_probability=1.5)
    with pytest.raises(ConfigError, match="resize_mode: expected one of"):
        EvalTransform(8, "widest")
    with pytest.raises(ConfigError, match="size: expected"):
        EvalTransform(0)
