"""Augmentations that move pixels: affine maps and changes of perspective."""

from __future__ import annotations

from typing import final

import numpy as np
from jaxtyping import Float64
from PIL import Image
from torchvision.transforms import functional

from clipkit.data.images.augment import OccasionalAugmentation, check_interval
from clipkit.data.images.decode import to_image, to_tensor
from clipkit.data.images.formats import RGB, Color
from clipkit.errors import check_range


@final
class RandomAffine(OccasionalAugmentation):
    """Rotates, shifts, scales and shears an image about its centre.

    Args:
        degrees: Largest angle of rotation, in either direction.
        translate: Largest shift, as a fraction of the side.
        scale: Smallest and largest factor.
        shear_degrees: Largest angle of the shear along x and along y.
        fill: Colour of the borders; None for the mean colour of the image's corners, which on a
            plain background is the background.
        probability: Fraction of the images that are changed.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        translate: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        shear_degrees: float = 0.0,
        fill: Color | None = None,
        probability: float = 1.0,
    ) -> None:
        self.degrees = check_range("RandomAffine.degrees", degrees, 0.0, 180.0)
        self.translate = check_range("RandomAffine.translate", translate, 0.0, 1.0)
        self.scale = check_interval("RandomAffine.scale", scale, 0.01, 100.0)
        self.shear_degrees = check_range("RandomAffine.shear_degrees", shear_degrees, 0.0, 80.0)
        self.fill = fill
        super().__init__(probability)

    def _changed(self, pixels: RGB, rng: np.random.Generator) -> RGB:
        turn, move_x, move_y, zoom, shear_x, shear_y = rng.random(6)
        height, width = pixels.shape[-2:]
        across, down = self.translate * width, self.translate * height
        return move(
            pixels,
            self.fill,
            degrees=self.degrees * (2.0 * turn - 1.0),
            shift=(across * (2.0 * move_x - 1.0), down * (2.0 * move_y - 1.0)),
            scale=self.scale[0] + (self.scale[1] - self.scale[0]) * zoom,
            shear_degrees=(
                self.shear_degrees * (2.0 * shear_x - 1.0),
                self.shear_degrees * (2.0 * shear_y - 1.0),
            ),
        )


def move(
    pixels: RGB,
    fill: Color | None,
    *,
    degrees: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    shear_degrees: tuple[float, float] = (0.0, 0.0),
) -> RGB:
    """Shear, scale and rotate an image about its centre, then shift it; bilinear."""
    moved = functional.affine(
        to_image(pixels),
        -degrees,
        list(shift),
        scale,
        [-angle for angle in shear_degrees],
        functional.InterpolationMode.BILINEAR,
        list(_corner_color(pixels) if fill is None else fill),
    )
    return to_tensor(moved)


@final
class RandomPerspective(OccasionalAugmentation):
    """Changes the perspective: each corner moves inwards by a random amount.

    Args:
        distortion: Largest move of a corner, as a fraction of half the side; below 1.
        fill: Colour of the borders; None for the mean colour of the image's corners.
        probability: Fraction of the images that are changed.
    """

    def __init__(
        self, distortion: float = 0.5, fill: Color | None = None, probability: float = 0.5
    ) -> None:
        self.distortion = check_range("RandomPerspective.distortion", distortion, 0.0, 0.95)
        self.fill = fill
        super().__init__(probability)

    def _changed(self, pixels: RGB, rng: np.random.Generator) -> RGB:
        height, width = pixels.shape[-2:]
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
        inwards = np.where(corners == 0, 1.0, -1.0) * np.array([width, height]) / 2
        moved = corners + inwards * self.distortion * rng.random((4, 2))
        coefficients = tuple(perspective_coefficients(moved, corners).tolist())
        image = to_image(pixels)
        changed = image.transform(
            image.size,
            Image.Transform.PERSPECTIVE,
            coefficients,
            Image.Resampling.BILINEAR,
            fillcolor=_corner_color(pixels) if self.fill is None else self.fill,
        )
        return to_tensor(changed)


def perspective_coefficients(
    points: Float64[np.ndarray, "4 2"], images: Float64[np.ndarray, "4 2"]
) -> Float64[np.ndarray, " 8"]:
    """Return the change of perspective that takes four points to four others.

    torchvision's function rounds to float32 and takes six times as long.
    """
    rows = []
    for (x, y), (u, v) in zip(points, images, strict=True):
        rows.append([x, y, 1.0, 0.0, 0.0, 0.0, -u * x, -u * y])
        rows.append([0.0, 0.0, 0.0, x, y, 1.0, -v * x, -v * y])
    return np.linalg.solve(np.array(rows), images.ravel())


def _corner_color(pixels: RGB) -> Color:
    corners = pixels.numpy()[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    red, green, blue = (corners.sum(1) // 4).tolist()
    return (red, green, blue)
