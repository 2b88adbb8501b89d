"""Corruptions: independent formulas, strengths, and random numbers that only depend on the key."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from clipkit.errors import ConfigError
from clipkit.evaluation.corruptions.blur import convolve, defocus_blur, motion_blur, zoom_blur
from clipkit.evaluation.corruptions.digital import _sampled, elastic_transform
from clipkit.evaluation.corruptions.kinds import CORRUPTIONS, STRENGTHS, corrupt
from clipkit.evaluation.corruptions.light import brightness, contrast, fog, plasma
from clipkit.evaluation.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from tests.helpers.evaluation_data import picture


def photo(size=64, seed=1):
    with Image.open(io.BytesIO(picture(seed))) as image:
        return np.asarray(image.convert("RGB").resize((size, size)))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_there_are_twelve_of_five_strengths_that_change_the_image_more_and_more():
    image = photo(224)
    assert len(CORRUPTIONS) == 12
    for kind, (_, parameters) in CORRUPTIONS.items():
        assert len(parameters) == len(STRENGTHS) == 5
        change = [
            np.abs(corrupt(image, kind, n, "key").astype(float) - image).mean() for n in STRENGTHS
        ]
        assert min(change) > 0.5, kind
        # Fog is drawn again for each strength; strengths 1 and 2 of the elastic transform move far,
        # 3 to 5 often.
        if kind not in {"fog", "elastic_transform"}:
            assert change == sorted(change), kind


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_same_key_gives_the_same_pixels_and_another_key_others(kind):
    image = photo()
    first = corrupt(image, kind, 3, "a")

    assert first.dtype == np.uint8
    assert first.shape == image.shape
    np.testing.assert_array_equal(first, corrupt(image, kind, 3, "a"))
    is_random = kind not in {
        "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression",
    }  # fmt: skip
    assert (corrupt(image, kind, 3, "b") != first).any() == is_random


def test_noises_have_their_moments():
    grey = np.full((300, 300, 3), 0.5)
    noisy = gaussian_noise(grey, 0.1, rng())
    assert (noisy.mean(), noisy.std()) == pytest.approx((0.5, 0.1), abs=2e-3)
    shots = shot_noise(grey, 12, rng())  # variance of a Poisson distribution: its mean
    assert (shots.mean(), shots.var()) == pytest.approx((0.5, 0.5 / 12), abs=2e-3)
    hit = impulse_noise(grey, 0.2, rng())
    assert ((hit == 0).mean(), (hit == 1).mean()) == pytest.approx((0.1, 0.1), abs=3e-3)


def test_convolution_is_that_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    image, kernel = photo(40) / 255, rng().random((7, 7))
    expected = [ndimage.convolve(image[..., c], kernel, mode="mirror") for c in range(3)]
    np.testing.assert_allclose(convolve(image, kernel), np.stack(expected, 2), atol=1e-10)


def test_blurs_keep_a_flat_image_and_the_mean():
    flat = np.full((50, 50, 3), 0.3)
    for blurred in (
        defocus_blur(flat, 6, 0.5, rng()),
        motion_blur(flat, 15, 8, rng()),
        zoom_blur(flat, 1.3, 0.03, rng()),
    ):
        np.testing.assert_allclose(blurred, flat, atol=1e-6)


def test_defocus_of_a_point_is_a_disk():
    point = np.zeros((41, 41, 3))
    point[20, 20] = 1
    y, x = np.mgrid[-20:21, -20:21]
    distance = np.hypot(x, y)

    spot = defocus_blur(point, 6, 0.5, rng())[..., 0]

    assert spot[distance <= 3] == pytest.approx(spot[20, 20], rel=1e-3)
    assert np.abs(spot[distance > 9]).max() < 1e-9
    assert spot.sum() == pytest.approx(1)


def test_motion_of_a_point_is_a_line_within_45_degrees():
    point = np.zeros((101, 101, 3))
    point[50, 50] = 1
    for seed in range(5):
        rows, columns = (motion_blur(point, 15, 8, rng(seed))[..., 0] > 1e-9).nonzero()
        assert columns.min() == 50  # one end of the line is the point
        assert (np.abs(rows - 50) <= columns - 50 + 1).all()


def test_brightness_is_that_of_colorsys():
    image = photo(12) / 255
    image[0, 0] = 0
    for (y, x), _ in np.ndenumerate(image[..., 0]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[y, x])
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1))
        assert brightness(image, 0.3, rng())[y, x] == pytest.approx(expected)


def test_contrast_keeps_the_mean_and_scales_the_deviation():
    image = photo(32) / 255
    faint = contrast(image, 0.2, rng())
    np.testing.assert_allclose(faint.mean((0, 1)), image.mean((0, 1)))
    np.testing.assert_allclose(faint.std((0, 1)), 0.2 * image.std((0, 1)))


def test_fog_is_grey_and_does_not_exceed_the_brightest_value():
    image = photo(64) / 255
    foggy = fog(image, 3.0, 1.4, rng())
    largest = image.max()
    assert foggy.max() <= largest + 1e-12
    density = foggy * (largest + 3) / largest - image  # the same for all colours
    np.testing.assert_allclose(density.std(2), 0, atol=1e-9)
    assert density.min() == pytest.approx(0, abs=1e-9)
    assert density.max() == pytest.approx(3)


def test_plasma_is_smooth_periodic_and_rougher_with_less_decay():
    smooth, rough = (plasma(64, decay, rng()) for decay in (2.0, 1.1))
    for field in (smooth, rough):
        assert (field.min(), field.max()) == (0, 1)
    steps = [np.abs(f - np.roll(f, 1, 0)).mean() for f in (smooth, rough)]
    assert steps[0] < 0.5 * steps[1]
    assert np.abs(smooth - np.roll(smooth, 1, 0))[0].mean() < 0.3  # the edges fit


def test_elastic_without_movement_is_the_identity_and_samples_as_scipy_does():
    ndimage = pytest.importorskip("scipy.ndimage")
    image = photo(30) / 255
    np.testing.assert_allclose(elastic_transform(image, 0, 2, 0, rng()), image, atol=1e-9)
    places = rng().uniform(-5, 35, (2, 30, 30))
    expected = [
        ndimage.map_coordinates(image[..., c], places, order=1, mode="mirror") for c in range(3)
    ]
    np.testing.assert_allclose(_sampled(image, *places), np.stack(expected, 2), atol=1e-9)


def test_elastic_moves_by_at_most_the_affine_distance_at_its_points():
    image = np.zeros((60, 60, 3))
    image[50, 50] = 1  # one of the three points: the centre plus a third
    moved = elastic_transform(image, 0, 2, 3, rng(4))
    rows, columns = (moved[..., 0] > 1e-6).nonzero()
    assert np.abs(rows - 50).max() <= 4
    assert np.abs(columns - 50).max() <= 4


def test_jpeg_and_pixels_are_those_of_pillow():
    image = photo(64)
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=15)
    with Image.open(stored) as read:
        np.testing.assert_array_equal(corrupt(image, "jpeg_compression", 3, "a"), np.asarray(read))
    coarse = corrupt(image, "pixelate", 2, "a")  # half the size: boxes of 2 x 2
    means = image.reshape(32, 2, 32, 2, 3).mean((1, 3))
    np.testing.assert_allclose(coarse[::2, ::2], means, atol=1.01)  # rounded after each direction
    np.testing.assert_array_equal(coarse[::2, ::2], coarse[1::2, 1::2])


@pytest.mark.parametrize(
    ("kind", "strength", "message"),
    [
        ("fogg", 3, "got 'fogg'; did you mean 'fog'"),
        ("fog", 0, "strength of a corruption: expected 1 to 5, got 0"),
        ("fog", 6, "expected 1 to 5, got 6"),
    ],
)
def test_unknown_corruptions_are_named(kind, strength, message):
    with pytest.raises(ConfigError, match=message):
        corrupt(photo(8), kind, strength, "a")


def test_tiny_and_grey_images_work():
    for image in (np.zeros((1, 1, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)):
        for kind in ("gaussian_noise", "shot_noise", "impulse_noise", "brightness", "contrast"):
            assert corrupt(image, kind, 5, "a").shape == image.shape
