"""Light: fog, brightness and contrast."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def plasma(size: int, decay: float, rng: np.random.Generator) -> Float64[np.ndarray, "size size"]:
    """Return a random height field by the diamond-square algorithm, periodic, from 0 to 1.

    Args:
        size: Width and height, a power of two.
        decay: The noise is divided by its square at each halving of the distances.
        rng: Draws the noise.

    Examples:
        >>> field = plasma(8, 2.0, np.random.default_rng(0))
        >>> float(field.min()), float(field.max())
        (0.0, 1.0)
    """
    field = np.zeros((size, size))
    noise, step = 1.0, size

    def middle(
        first: Float64[np.ndarray, "rows columns"], second: Float64[np.ndarray, "rows columns"]
    ) -> Float64[np.ndarray, "rows columns"]:
        mean: Float64[np.ndarray, "rows columns"] = (first + second) / 4
        return mean + noise * rng.uniform(-1, 1, first.shape)

    while step > 1:
        half = step // 2
        corners = field[::step, ::step]
        rows = corners + np.roll(corners, -1, 0)
        field[half::step, half::step] = middle(rows, np.roll(rows, -1, 1))
        centres = field[half::step, half::step]
        sides = corners + np.roll(corners, -1, 1)
        field[::step, half::step] = middle(sides, centres + np.roll(centres, 1, 0))
        field[half::step, ::step] = middle(rows, centres + np.roll(centres, 1, 1))
        step, noise = half, noise / decay**2
    field -= field.min()
    field /= field.max()
    return field


def fog(
    pixels: Float64[np.ndarray, "H W 3"], amount: float, decay: float, rng: np.random.Generator
) -> Float64[np.ndarray, "H W 3"]:
    """Add fog of uneven density, and scale the result to the maximum of the image.

    Args:
        pixels: Values from 0 to 1.
        amount: Weight of the fog.
        decay: Smoothness of the fog; see ``plasma``.
        rng: Draws the fog.
    """
    height, width = pixels.shape[:2]
    size = 1 << (max(height, width) - 1).bit_length()
    largest = pixels.max()
    field = plasma(size, decay, rng)[:height, :width, None]
    foggy: Float64[np.ndarray, "H W 3"] = (pixels + amount * field) * largest / (largest + amount)
    return foggy


def brightness(
    pixels: Float64[np.ndarray, "H W 3"],
    amount: float,
    rng: np.random.Generator,  # noqa: ARG001
) -> Float64[np.ndarray, "H W 3"]:
    """Add an amount to the value in HSV; hue and saturation stay.

    Examples:
        >>> brightness(np.full((1, 1, 3), 0.5), 0.2, np.random.default_rng(0))[0, 0].tolist()
        [0.7, 0.7, 0.7]
    """
    value = pixels.max(axis=2, keepdims=True)
    brighter = np.minimum(value + amount, 1)
    scale = np.divide(brighter, value, out=np.ones_like(value), where=value > 0)
    result: Float64[np.ndarray, "H W 3"] = np.where(value > 0, pixels * scale, brighter)
    return result


def contrast(
    pixels: Float64[np.ndarray, "H W 3"],
    share: float,
    rng: np.random.Generator,  # noqa: ARG001
) -> Float64[np.ndarray, "H W 3"]:
    """Keep a share of the distance of each value to the mean of its channel."""
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    faint: Float64[np.ndarray, "H W 3"] = mean + share * (pixels - mean)
    return faint
