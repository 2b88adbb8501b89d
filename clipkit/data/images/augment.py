"""Augmentations of training images: small classes that are chosen and ordered in YAML.

Every augmentation uses only the sample's random generator, so that a sample is the same on any rank
or worker. Where torchvision's functions were measured to be slow on small images (64 pixels, one
core), Pillow is used: hue takes 15 us instead of 260, affine maps 80 instead of 140.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float64

from clipkit.data.images.decode import to_image, to_tensor
from clipkit.data.images.formats import RGB
from clipkit.errors import ConfigError, check_range

LUMA: Final = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""

_TO_YIQ: Final = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_FROM_YIQ: Final = np.linalg.inv(_TO_YIQ)
_ALL_GREY: Final = np.tile(LUMA, (3, 1))


class ImageAugmentation(ABC):
    """Changes an image randomly (abstract)."""

    @abstractmethod
    def __call__(self, pixels: RGB, rng: np.random.Generator) -> RGB:
        """Return the changed image, of the same size.

        Args:
            pixels: Values from 0 to 255; not written to.
            rng: Random generator of the sample.
        """


class OccasionalAugmentation(ImageAugmentation, ABC):
    """Changes a share of the images, the others stay as they are."""

    def __init__(self, probability: float) -> None:
        self.probability = check_probability(probability)

    def __call__(self, pixels: RGB, rng: np.random.Generator) -> RGB:
        """See `ImageAugmentation`."""
        return self._changed(pixels, rng) if rng.random() < self.probability else pixels

    @abstractmethod
    def _changed(self, pixels: RGB, rng: np.random.Generator) -> RGB:
        """Return the changed image."""


@final
class HorizontalFlip(OccasionalAugmentation):
    """Mirrors an image left to right.

    Args:
        probability: Share of the images that are mirrored.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__(probability)

    def _changed(self, pixels: RGB, rng: np.random.Generator) -> RGB:  # noqa: ARG002
        return pixels.flip(-1)


@final
class Grayscale(OccasionalAugmentation):
    """Removes the colour.

    Args:
        probability: Share of the images that are changed to grey.
    """

    def __init__(self, probability: float = 0.2) -> None:
        super().__init__(probability)

    def _changed(self, pixels: RGB, rng: np.random.Generator) -> RGB:  # noqa: ARG002
        return apply_color_map(pixels, _ALL_GREY, np.zeros(3))


@final
class ColorJitter(OccasionalAugmentation):
    """Changes brightness, contrast, saturation and hue, in random order.

    The four changes are one linear map of the colours, applied once: in contrast to torchvision,
    nothing is rounded or clipped in between, and hue is a rotation about the grey axis, which keeps
    the brightness.

    Args:
        brightness: Largest change of the factor of the brightness: it is 1 - brightness to
            1 + brightness.
        contrast: Largest change of the factor of the distance from the image's mean grey.
        saturation: Largest change of the factor of the distance from each pixel's grey.
        hue: Largest rotation of the colours, in turns; at most 0.5.
        probability: Share of the images that are changed.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        probability: float = 1.0,
    ) -> None:
        values = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for option, value in values.items():
            check_range(f"ColorJitter.{option}", value, 0.0, math.inf)
        check_range("ColorJitter.hue", hue, 0.0, 0.5)
        self.ranges = tuple((max(0.0, 1.0 - value), 1.0 + value) for value in values.values())
        self.hue = hue
        super().__init__(probability)

    def _changed(self, pixels: RGB, rng: np.random.Generator) -> RGB:
        order = rng.permutation(4)
        factors = [low + (high - low) * rng.random() for low, high in self.ranges]
        turns = self.hue * (2.0 * rng.random() - 1.0)
        mean = pixels.mean((1, 2), dtype=torch.float32).numpy().astype(np.float64)
        matrix, offset = color_map(factors, turns, order.tolist(), mean)
        return apply_color_map(pixels, matrix, offset)


def color_map(
    factors: Sequence[float], turns: float, order: Sequence[int], mean: Float64[np.ndarray, " 3"]
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, " 3"]]:
    """Return brightness, contrast, saturation and hue as one linear map: matrix and offset."""
    brightness, contrast, saturation = factors
    matrix, offset = np.eye(3), np.zeros(3)
    for step in order:
        if step == 0:
            matrix, offset = matrix * brightness, offset * brightness
        elif step == 1:
            grey = LUMA @ (matrix @ mean + offset)
            matrix, offset = matrix * contrast, offset * contrast + (1.0 - contrast) * grey
        else:
            grey_share = saturation * np.eye(3) + (1.0 - saturation) * _ALL_GREY
            change = _hue_rotation(turns) if step == 3 else grey_share
            matrix, offset = change @ matrix, change @ offset
    return matrix, offset


def apply_color_map(
    pixels: RGB, matrix: Float64[np.ndarray, "3 3"], offset: Float64[np.ndarray, " 3"]
) -> RGB:
    """Map every colour c to ``matrix @ c + offset``, rounded and clipped to 0 to 255."""
    rows = np.column_stack([matrix, offset]).ravel().tolist()
    return to_tensor(to_image(pixels).convert("RGB", tuple(rows)))


def _hue_rotation(turns: float) -> Float64[np.ndarray, "3 3"]:
    cos, sin = math.cos(2.0 * math.pi * turns), math.sin(2.0 * math.pi * turns)
    rotation = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    result: Float64[np.ndarray, "3 3"] = _FROM_YIQ @ rotation @ _TO_YIQ
    return result


@final
class RandomErasing(OccasionalAugmentation):
    """Fills a random rectangle, with noise or one colour.

    Args:
        probability: Share of the images that lose a rectangle.
        area: Smallest and largest share of the image's area.
        ratio: Smallest and largest width over height of the rectangle.
        fill: Colour of the rectangle; None for noise.

    Source: Zhong et al. 2017, "Random Erasing Data Augmentation".
    """

    def __init__(
        self,
        probability: float = 0.25,
        area: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        fill: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(probability)
        self.area = check_interval("RandomErasing.area", area, 0.0, 1.0)
        self.ratio = check_interval("RandomErasing.ratio", ratio, 1e-3, 1e3)
        self.fill = fill

    def _changed(self, pixels: RGB, rng: np.random.Generator) -> RGB:
        _, height, width = pixels.shape
        area = rng.uniform(*self.area) * height * width
        ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        columns = max(1, min(width, round(math.sqrt(area * ratio))))
        rows = max(1, min(height, round(math.sqrt(area / ratio))))
        left = int(rng.integers(width - columns + 1))
        top = int(rng.integers(height - rows + 1))
        erased = pixels.clone()
        if self.fill is None:
            filling = torch.from_numpy(rng.integers(0, 256, (3, rows, columns), dtype=np.uint8))
        else:
            filling = torch.tensor(self.fill, dtype=torch.uint8)[:, None, None]
        erased[:, top : top + rows, left : left + columns] = filling
        return erased


def check_probability(value: float) -> float:
    """Check an option that is a probability."""
    return check_range("probability", value, 0.0, 1.0)


def check_interval(
    option: str, interval: tuple[float, float], low: float, high: float
) -> tuple[float, float]:
    """Check a smallest and a largest number."""
    if len(interval) != 2 or not low <= interval[0] <= interval[1] <= high:
        raise ConfigError(
            f"{option}: expected a smallest and a largest number from {low:g} to {high:g}, got "
            f"{list(interval)}"
        )
    return (interval[0], interval[1])
