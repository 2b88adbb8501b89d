"""RandAugment with the sample's random generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, final

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional

from clipkit.data.images.augment import ImageAugmentation
from clipkit.data.images.augment_geometry import move
from clipkit.data.images.formats import RGB, Color
from clipkit.errors import check_at_least, check_range

MAX_MAGNITUDE: Final = 30
_LARGEST_SHEAR: Final = 0.3
_LARGEST_SHIFT: Final = 150 / 331
_MOST_DEGREES: Final = 30.0
_LARGEST_ENHANCEMENT: Final = 0.9
_MOST_BITS_LOST: Final = 4

Step = Callable[[Tensor, float, Color | None], Tensor]
"""Changes an image by a strength from -1 to 1; one-sided steps use its absolute value."""


def _shear(pixels: Tensor, strength: float, fill: Color | None, axis: int) -> Tensor:
    angle = math.degrees(math.atan(_LARGEST_SHEAR * strength))
    return move(pixels, fill, shear_degrees=(angle, 0.0) if axis == 0 else (0.0, angle))


def _translate(pixels: Tensor, strength: float, fill: Color | None, axis: int) -> Tensor:
    distance = _LARGEST_SHIFT * strength * pixels.shape[-1 - axis]
    return move(pixels, fill, shift=(distance, 0.0) if axis == 0 else (0.0, distance))


def _enhance(adjust: Callable[[Tensor, float], Tensor]) -> Step:
    return lambda pixels, strength, _: adjust(pixels, 1.0 + _LARGEST_ENHANCEMENT * strength)


STEPS: Final[Mapping[str, Step]] = {
    "identity": lambda pixels, _, __: pixels,
    "shear_x": lambda pixels, strength, fill: _shear(pixels, strength, fill, 0),
    "shear_y": lambda pixels, strength, fill: _shear(pixels, strength, fill, 1),
    "translate_x": lambda pixels, strength, fill: _translate(pixels, strength, fill, 0),
    "translate_y": lambda pixels, strength, fill: _translate(pixels, strength, fill, 1),
    "rotate": lambda pixels, strength, fill: move(pixels, fill, degrees=_MOST_DEGREES * strength),
    "brightness": _enhance(functional.adjust_brightness),
    "saturation": _enhance(functional.adjust_saturation),
    "contrast": _enhance(functional.adjust_contrast),
    "sharpness": _enhance(functional.adjust_sharpness),
    "posterize": lambda pixels, strength, _: functional.posterize(
        pixels, 8 - round(_MOST_BITS_LOST * abs(strength))
    ),
    "solarize": lambda pixels, strength, _: functional.solarize(
        pixels, 255.0 * (1.0 - abs(strength))
    ),
    "autocontrast": lambda pixels, _, __: functional.autocontrast(pixels),
    "equalize": lambda pixels, _, __: functional.equalize(pixels),
}
"""Steps and largest strengths as in torchvision; only the random selection is different."""


@final
class RandAugment(ImageAugmentation):
    """Random steps out of fourteen, all of the same strength.

    Args:
        num_steps: Number of steps per image.
        magnitude: Strength, from 0 to 30.
        fill: Colour of the borders; None for the mean colour of the image's corners.

    Source: Cubuk et al. 2019, "RandAugment: Practical automated data augmentation with a reduced
    search space".
    """

    def __init__(
        self, num_steps: int = 2, magnitude: float = 9.0, fill: Color | None = None
    ) -> None:
        check_at_least("RandAugment.num_steps", num_steps, 1)
        self.num_steps = num_steps
        self.magnitude = check_range("RandAugment.magnitude", magnitude, 0.0, MAX_MAGNITUDE)
        self.fill = fill

    def __call__(self, pixels: RGB, rng: np.random.Generator) -> RGB:
        """See `ImageAugmentation`."""
        names = list(STEPS)
        for _ in range(self.num_steps):
            name = names[rng.integers(len(names))]
            sign = 1.0 if rng.random() < 0.5 else -1.0
            pixels = STEPS[name](pixels, sign * self.magnitude / MAX_MAGNITUDE, self.fill)
        return pixels
