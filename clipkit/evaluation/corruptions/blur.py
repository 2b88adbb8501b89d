"""Blur: of the focus, of motion and of zoom."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from PIL import Image


def convolve(
    pixels: Float64[np.ndarray, "H W 3"], kernel: Float64[np.ndarray, "size size"]
) -> Float64[np.ndarray, "H W 3"]:
    """Convolve each channel with a kernel of odd size; the image is mirrored at its edges.

    Examples:
        >>> convolve(np.ones((5, 5, 3)), np.full((3, 3), 1 / 9)).round(6).min()
        np.float64(1.0)
    """
    height, width = pixels.shape[:2]
    margin = len(kernel) // 2
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    size = padded.shape[0] + 2 * margin, padded.shape[1] + 2 * margin
    spectrum = np.fft.rfft2(padded, size, axes=(0, 1)) * np.fft.rfft2(kernel, size)[..., None]
    result: Float64[np.ndarray, "height width 3"] = np.fft.irfft2(spectrum, size, axes=(0, 1))
    return result[2 * margin : 2 * margin + height, 2 * margin : 2 * margin + width]


def defocus_blur(
    pixels: Float64[np.ndarray, "H W 3"],
    radius: int,
    edge: float,
    rng: np.random.Generator,  # noqa: ARG001
) -> Float64[np.ndarray, "H W 3"]:
    """Average over a disk, whose edge is smoothed by a Gaussian.

    Args:
        pixels: Values from 0 to 1.
        radius: Radius of the disk, in pixels.
        edge: Standard deviation of the smoothing, in pixels.
        rng: Not used.
    """
    size = max(8, radius) + 2
    y, x = np.mgrid[-size : size + 1, -size : size + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.float64)
    soft = np.exp(-(x**2 + y**2) / (2 * edge**2))
    kernel = convolve(np.repeat(disk[..., None], 3, 2), soft / soft.sum())[..., 0].clip(0)
    return convolve(pixels, kernel / kernel.sum())


def motion_blur(
    pixels: Float64[np.ndarray, "H W 3"], radius: int, deviation: float, rng: np.random.Generator
) -> Float64[np.ndarray, "H W 3"]:
    """Blur along a line in a random direction within 45 degrees of the horizontal.

    Args:
        pixels: Values from 0 to 1.
        radius: Half of the length of the line, in pixels.
        deviation: Standard deviation of the weights along the line, from one end of it, in pixels.
        rng: Draws the direction.
    """
    angle = np.deg2rad(rng.uniform(-45, 45))
    reach = 2 * radius
    steps = np.arange(reach + 1)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    rows, columns = np.rint(steps * np.sin(angle)), np.rint(steps * np.cos(angle))
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    np.add.at(kernel, (reach + rows.astype(int), reach + columns.astype(int)), weights)
    return convolve(pixels, kernel / kernel.sum())


def zoom_blur(
    pixels: Float64[np.ndarray, "H W 3"],
    largest: float,
    step: float,
    rng: np.random.Generator,  # noqa: ARG001
) -> Float64[np.ndarray, "H W 3"]:
    """Average the image and its enlargements around the centre.

    Args:
        pixels: Values from 0 to 1.
        largest: Largest factor.
        step: Distance of the factors, from 1 on.
        rng: Not used.
    """
    height, width = pixels.shape[:2]
    factors = 1 + step * np.arange(round((largest - 1) / step) + 1)
    planes = pixels.astype(np.float32).transpose(2, 0, 1)
    channels = [Image.fromarray(plane) for plane in planes]
    total = pixels.copy()
    for factor in factors:
        left, top = (side * (1 - 1 / factor) / 2 for side in (width, height))
        box = (left, top, width - left, height - top)
        zoomed = [c.resize((width, height), Image.Resampling.BILINEAR, box) for c in channels]
        total += np.stack([np.asarray(c, np.float64) for c in zoomed], axis=2)
    return total / (len(factors) + 1)
