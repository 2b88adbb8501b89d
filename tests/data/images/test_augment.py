"""What each augmentation does to a picture, against torchvision and against plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional

from clipkit.data.images.augment import (
    ColorJitter,
    Grayscale,
    HorizontalFlip,
    ImageAugmentation,
    RandomErasing,
    apply_color_map,
    color_map,
)
from clipkit.data.images.augment_geometry import (
    RandomAffine,
    RandomPerspective,
    move,
    perspective_coefficients,
)
from clipkit.data.images.decode import to_image, to_tensor
from clipkit.data.images.rand_augment import STEPS, RandAugment
from clipkit.errors import ConfigError


def picture(low: int = 0, high: int = 256, size: int = 24, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.integers(low, high, (3, 6, 6), dtype=np.uint8))
    return functional.resize(coarse, [size, size], InterpolationMode.BILINEAR)


def mean_of(pixels: torch.Tensor) -> np.ndarray:
    return pixels.double().mean((1, 2)).numpy()


@pytest.mark.parametrize(
    ("factors", "step", "reference"),
    [
        ((1.3, 1.0, 1.0), 0, lambda x: functional.adjust_brightness(x, 1.3)),
        ((1.0, 0.6, 1.0), 1, lambda x: functional.adjust_contrast(x, 0.6)),
        ((1.0, 1.0, 1.5), 2, lambda x: functional.adjust_saturation(x, 1.5)),
    ],
)
def test_color_steps_equal_torchvisions(
    factors: tuple[float, float, float],
    step: int,
    reference: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    pixels = picture(80, 160)
    order = [step, *(other for other in range(4) if other != step)]
    changed = apply_color_map(pixels, *color_map(factors, 0.0, order, mean_of(pixels)))
    assert (changed.int() - reference(pixels).int()).abs().max() <= 1
    assert not torch.equal(changed, pixels)


def test_color_steps_in_order_equal_torchvisions() -> None:
    pixels = picture(100, 150)
    matrix = color_map((1.2, 0.7, 1.4), 0.0, [2, 0, 1, 3], mean_of(pixels))
    changed = apply_color_map(pixels, *matrix)
    expected = functional.adjust_saturation(pixels, 1.4)
    expected = functional.adjust_contrast(functional.adjust_brightness(expected, 1.2), 0.7)
    assert (changed.int() - expected.int()).abs().max() <= 3  # it cuts off at each step


def test_hue_keeps_grey_and_brightness() -> None:
    grey = torch.full((3, 4, 4), 90, dtype=torch.uint8)
    pixels = picture(90, 150)
    for turns in (-0.4, 0.1, 0.5):
        matrix, offset = color_map((1.0, 1.0, 1.0), turns, [0, 1, 2, 3], np.zeros(3))
        assert (apply_color_map(grey, matrix, offset).int() - 90).abs().max() <= 1
        turned = apply_color_map(pixels, matrix, offset)
        before = functional.rgb_to_grayscale(pixels).int()
        assert (functional.rgb_to_grayscale(turned).int() - before).abs().max() <= 2
        assert (turned.int() - pixels.int()).abs().max() > 5
    forth, _ = color_map((1.0, 1.0, 1.0), 0.2, [3, 0, 1, 2], np.zeros(3))
    back, _ = color_map((1.0, 1.0, 1.0), -0.2, [3, 0, 1, 2], np.zeros(3))
    assert np.allclose(forth @ back, np.eye(3))


def test_color_jitter_stays_in_its_range() -> None:
    pixels = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    jitter = ColorJitter(brightness=0.3)
    values = [int(jitter(pixels, np.random.default_rng(n))[0, 0, 0]) for n in range(300)]
    assert 70 <= min(values) <= 73
    assert 127 <= max(values) <= 130
    assert torch.equal(ColorJitter(0.5, probability=0.0)(pixels, np.random.default_rng(0)), pixels)
    assert torch.equal(ColorJitter()(pixels, np.random.default_rng(0)), pixels)


def test_flip_and_grey() -> None:
    pixels, rng = picture(), np.random.default_rng(0)
    assert torch.equal(HorizontalFlip(1.0)(pixels, rng), functional.horizontal_flip(pixels))
    grey = Grayscale(1.0)(pixels, rng)
    expected = functional.rgb_to_grayscale(pixels, num_output_channels=3)
    assert (grey.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("augmentation", [HorizontalFlip(0.3), Grayscale(0.3), RandomErasing(0.3)])
def test_probabilities(augmentation: ImageAugmentation) -> None:
    pixels, rng = picture(), np.random.default_rng(0)
    changed = sum(not torch.equal(augmentation(pixels, rng), pixels) for _ in range(1000))
    assert 250 < changed < 350


def moved_by_matrix(
    pixels: torch.Tensor, degrees: float, scale: float, shears: tuple[float, float]
) -> torch.Tensor:
    """Shear, scale, rotate about the centre by a matrix of its own."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    x, y = np.tan(np.radians(shears))
    inverse = np.linalg.inv(scale * (turn @ np.array([[1.0, x], [y, 1.0 + x * y]])))
    centre = np.array([pixels.shape[-1], pixels.shape[-2]]) / 2
    offset = centre - inverse @ centre
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    image = to_image(pixels)
    return to_tensor(
        image.transform(
            image.size,
            Image.Transform.AFFINE,
            coefficients,
            Image.Resampling.BILINEAR,
            fillcolor=(9, 9, 9),
        )
    )


@pytest.mark.parametrize("degrees", [0.0, 30.0, -110.0])
@pytest.mark.parametrize("scale", [1.0, 0.8, 1.7])
@pytest.mark.parametrize("shears", [(0.0, 0.0), (20.0, 0.0), (0.0, -35.0), (60.0, 80.0)])
def test_affine_maps_by_another_way(
    degrees: float, scale: float, shears: tuple[float, float]
) -> None:
    pixels = picture(size=32)
    ours = move(pixels, (9, 9, 9), degrees=degrees, scale=scale, shear_degrees=shears)
    difference = (ours.int() - moved_by_matrix(pixels, degrees, scale, shears).int()).abs()
    assert (difference > 0).float().mean() < 0.01  # rounding of coordinates at a pixel's border
    assert difference.float().mean() < 0.1


def test_quarter_turns_are_counter_clockwise() -> None:
    pixels = picture(size=32)
    for quarters in (1, 2, 3):
        moved = move(pixels, (0, 0, 0), degrees=90.0 * quarters)
        expected = pixels.rot90(quarters, (1, 2))
        assert (moved.int() - expected.int())[:, 1:-1, 1:-1].abs().max() <= 1


def test_affine_shifts_right_and_down() -> None:
    pixels = picture()
    moved = move(pixels, (1, 2, 3), shift=(3.0, 5.0))
    assert torch.equal(moved[:, 5:, 3:], pixels[:, :-5, :-3])
    assert moved[:, 0, 0].tolist() == [1, 2, 3]


def test_borders_take_the_background() -> None:
    pixels = torch.full((3, 20, 20), 250, dtype=torch.uint8)
    pixels[:, 6:14, 6:14] = 0
    for augmentation in (RandomAffine(40, 0.2, (0.5, 0.8), 20), RandomPerspective(0.6)):
        for seed in range(20):
            moved = augmentation(pixels, np.random.default_rng(seed))
            assert (moved[:, 0] >= 249).all()
    filled = RandomAffine(scale=(0.5, 0.5), fill=(255, 0, 0))(pixels, np.random.default_rng(0))
    assert filled[:, 0, 0].tolist() == [255, 0, 0]


def test_perspective_takes_points_to_points() -> None:
    points = np.array([[1, 2], [20, 0], [23, 19], [0, 24]], dtype=float)
    images = np.array([[0, 0], [24, 0], [24, 24], [0, 24]], dtype=float)
    a, b, c, d, e, f, g, h = perspective_coefficients(points, images)
    for (x, y), (u, v) in zip(points, images, strict=True):
        below = g * x + h * y + 1
        assert np.allclose([(a * x + b * y + c) / below, (d * x + e * y + f) / below], [u, v])


def test_erasing() -> None:
    pixels = torch.full((3, 40, 40), 7, dtype=torch.uint8)
    shares = []
    for seed in range(200):
        erased = RandomErasing(1.0, (0.1, 0.3), fill=(1, 2, 3))(pixels, np.random.default_rng(seed))
        mask = (erased != 7).all(0)
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns  # one rectangle
        assert erased[:, mask][:, 0].tolist() == [1, 2, 3]
        shares.append(mask.float().mean().item())
    assert min(shares) > 0.05
    assert max(shares) < 0.33
    assert (pixels == 7).all()  # the original is not written to
    noise = RandomErasing(1.0)(pixels, np.random.default_rng(0))
    assert noise.unique().numel() > 20


@pytest.mark.parametrize("name", STEPS)
def test_every_step_of_rand_augment(name: str) -> None:
    pixels = picture(60, 200, size=32)
    weak, strong = (STEPS[name](pixels, strength, (0, 0, 0)) for strength in (0.0, 1.0))
    for changed in (weak, strong):
        assert changed.shape == pixels.shape
        assert changed.dtype == torch.uint8
    if name not in {"autocontrast", "equalize"}:
        assert (weak.int() - pixels.int()).abs().max() <= 1
    assert torch.equal(strong, pixels) == (name == "identity")


def test_rand_augment_uses_every_step() -> None:
    pixels = picture(60, 200, size=32)
    results = {
        RandAugment(1, 20)(pixels, np.random.default_rng(seed)).numpy().tobytes()
        for seed in range(400)
    }
    assert len(results) >= 20  # 14 steps, most of them in two directions


@pytest.mark.parametrize(
    "make",
    [
        lambda: HorizontalFlip(1.1),
        lambda: ColorJitter(hue=0.6),
        lambda: ColorJitter(brightness=-1.0),
        lambda: RandomErasing(area=(0.5, 0.2)),
        lambda: RandomAffine(degrees=200),
        lambda: RandomAffine(scale=(0.0, 1.0)),
        lambda: RandomPerspective(1.0),
        lambda: RandAugment(magnitude=31),
        lambda: RandAugment(num_steps=0),
    ],
)
def test_bad_options(make: Callable[[], ImageAugmentation]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        make()
