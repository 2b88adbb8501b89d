"""Decode an image once for its pixels, its size and its perceptual hash."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt64

from clipkit.data.images.formats import DEFAULT_MAX_PIXELS, RGB, open_image, orientation_of
from clipkit.data.images.perceptual_hash import draft, opened_signature
from clipkit.data.images.transforms import ExactTransform


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """An image as a model reads it, and what identifies it.

    Args:
        pixels: Pixels, 0 to 255.
        width_pixels: Width of the upright image, before the transform.
        height_pixels: Height of the upright image, before the transform.
        signature: Perceptual hash, as ``image_signature`` returns it.
    """

    pixels: RGB
    width_pixels: int
    height_pixels: int
    signature: UInt64[np.ndarray, " 5"]


def inspect_image(data: bytes, transform: ExactTransform) -> InspectedImage:
    """Return the pixels, the size and the perceptual hash of an image file.

    Only large JPEGs are decoded a second time, at the reduced scale of their hash.

    Args:
        data: Bytes of the file.
        transform: Image transform of the model.

    Raises:
        SampleError: If the image cannot be decoded.

    Examples:
        >>> image = inspect_image(Path("dog.jpg").read_bytes(), EvalTransform(64))
        >>> image.pixels.shape, image.width_pixels, image.height_pixels
        (torch.Size([3, 64, 64]), 40, 32)
    """
    image = open_image(data, min(DEFAULT_MAX_PIXELS, transform.max_pixels))
    turn = orientation_of(image, data)
    width, height = image.size[::-1] if turn and turn.swaps else image.size
    is_reduced = draft(image)
    signature = opened_signature(image, turn)
    pixels = transform.of_file(data) if is_reduced else transform.of_opened(image, turn)
    return InspectedImage(pixels, width, height, signature)
