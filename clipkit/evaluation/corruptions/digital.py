"""Digital: elastic deformation, coarse pixels and JPEG compression."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image


def elastic_transform(
    pixels: Float64[np.ndarray, "H W 3"],
    amount: float,
    smoothness: float,
    affine: float,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "H W 3"]:
    """Move each pixel by a smooth random field, after a random affine map.

    Args:
        pixels: Values from 0 to 1.
        amount: Factor of the smoothed field of uniform numbers from -1 to 1, in pixels.
        smoothness: Standard deviation of the Gaussian that smooths the field, in pixels.
        affine: Largest distance that the affine map moves each of three points, in pixels.
        rng: Draws map and field.
    """
    height, width = pixels.shape[:2]
    centre = np.array([height, width]) / 2
    offset = min(height, width) // 3
    points = centre + offset * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + rng.uniform(-affine, affine, points.shape)
    inverse, *_ = np.linalg.lstsq(np.hstack([moved, np.ones((3, 1))]), points, rcond=None)
    field = [amount * _smoothed(rng.uniform(-1, 1, (height, width)), smoothness) for _ in range(2)]
    rows, columns = np.mgrid[:height, :width] + np.stack(field)
    places = np.stack([rows, columns, np.ones_like(rows)], axis=2) @ inverse
    return _sampled(pixels, places[..., 0], places[..., 1])


def _smoothed(field: Float64[np.ndarray, "H W"], deviation: float) -> Float64[np.ndarray, "H W"]:
    """Smooth a periodic field by a Gaussian."""
    rows, columns = (np.fft.fftfreq(side) for side in field.shape)
    square = rows[:, None] ** 2 + columns[None, : field.shape[1] // 2 + 1] ** 2
    spectrum = np.fft.rfft2(field) * np.exp(-2 * (np.pi * deviation) ** 2 * square)
    smooth: Float64[np.ndarray, "H W"] = np.fft.irfft2(spectrum, field.shape)
    return smooth


def _sampled(
    pixels: Float64[np.ndarray, "H W 3"],
    rows: Float64[np.ndarray, "H W"],
    columns: Float64[np.ndarray, "H W"],
) -> Float64[np.ndarray, "H W 3"]:
    """Return bilinear samples; the image is mirrored at its edges."""
    top, left = np.floor(rows), np.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    y = [_mirrored(top + step, pixels.shape[0]) for step in range(2)]
    x = [_mirrored(left + step, pixels.shape[1]) for step in range(2)]
    upper = (1 - right) * pixels[y[0], x[0]] + right * pixels[y[0], x[1]]
    lower = (1 - right) * pixels[y[1], x[0]] + right * pixels[y[1], x[1]]
    result: Float64[np.ndarray, "H W 3"] = (1 - down) * upper + down * lower
    return result


def _mirrored(places: Float64[np.ndarray, "H W"], size: int) -> Int64[np.ndarray, "H W"]:
    period = 2 * (size - 1)
    folded = np.abs(places.astype(np.int64)) % period
    mirrored: Int64[np.ndarray, "H W"] = np.minimum(folded, period - folded)
    return mirrored


def pixelate(
    pixels: Float64[np.ndarray, "H W 3"],
    share: float,
    rng: np.random.Generator,  # noqa: ARG001
) -> Float64[np.ndarray, "H W 3"]:
    """Reduce the image to a share of its width and height, and enlarge it again by boxes."""
    height, width = pixels.shape[:2]
    small = _image(pixels).resize(
        (max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX
    )
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255


def jpeg_compression(
    pixels: Float64[np.ndarray, "H W 3"],
    quality: int,
    rng: np.random.Generator,  # noqa: ARG001
) -> Float64[np.ndarray, "H W 3"]:
    """Store the image as a JPEG of a quality, and read it again."""
    stored = io.BytesIO()
    _image(pixels).save(stored, "JPEG", quality=quality)
    with Image.open(stored) as image:
        return np.asarray(image.convert("RGB")) / 255


def _image(pixels: Float64[np.ndarray, "H W 3"]) -> Image.Image:
    return Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
