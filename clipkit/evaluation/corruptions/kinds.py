"""The twelve corruptions with their five strengths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from jaxtyping import Float64, UInt8

from clipkit.data.rng import generator
from clipkit.errors import ConfigError
from clipkit.evaluation.corruptions.blur import defocus_blur, motion_blur, zoom_blur
from clipkit.evaluation.corruptions.digital import elastic_transform, jpeg_compression, pixelate
from clipkit.evaluation.corruptions.light import brightness, contrast, fog
from clipkit.evaluation.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from clipkit.suggestions import did_you_mean

IMAGE_SIZE: Final = 224
"""Width and height of the images that are corrupted; the parameters are for this size."""

Corruption = Callable[..., Float64[np.ndarray, "H W 3"]]
_SIDE: Final = 244.0  # unit of the lengths of the elastic transform in the paper's code

CORRUPTIONS: Final[Mapping[str, tuple[Corruption, tuple[tuple[float, ...], ...]]]] = {
    "gaussian_noise": (gaussian_noise, ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))),
    "shot_noise": (shot_noise, ((60,), (25,), (12,), (5,), (3,))),
    "impulse_noise": (impulse_noise, ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))),
    "defocus_blur": (defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "motion_blur": (motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": (
        zoom_blur, ((1.1, 0.01), (1.15, 0.01), (1.2, 0.02), (1.25, 0.02), (1.3, 0.03)),
    ),
    "fog": (fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": (brightness, ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))),
    "contrast": (contrast, ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))),
    "elastic_transform": (
        elastic_transform,
        (
            (2 * _SIDE, 0.7 * _SIDE, 0.1 * _SIDE),
            (2 * _SIDE, 0.08 * _SIDE, 0.2 * _SIDE),
            (0.05 * _SIDE, 0.01 * _SIDE, 0.02 * _SIDE),
            (0.07 * _SIDE, 0.01 * _SIDE, 0.02 * _SIDE),
            (0.12 * _SIDE, 0.01 * _SIDE, 0.02 * _SIDE),
        ),
    ),
    "pixelate": (pixelate, ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),
    "jpeg_compression": (jpeg_compression, ((25,), (18,), (15,), (10,), (7,))),
}  # fmt: skip
"""Function of each corruption, and its parameters at strengths 1 to 5.

Kinds and parameters are those of Hendrycks & Dietterich 2019 (ImageNet-C); the implementations are
clipkit's own.
"""

STRENGTHS: Final = (1, 2, 3, 4, 5)


def check_corruption(kind: str, strength: int) -> None:
    """Refuse an unknown corruption or strength."""
    if kind not in CORRUPTIONS:
        raise ConfigError(
            f"corruption: expected one of {', '.join(CORRUPTIONS)}, got {kind!r}"
            f"{did_you_mean(kind, CORRUPTIONS)}"
        )
    if strength not in STRENGTHS:
        raise ConfigError(f"strength of a corruption: expected 1 to 5, got {strength}")


def corrupt(
    pixels: UInt8[np.ndarray, "H W 3"], kind: str, strength: int, key: str
) -> UInt8[np.ndarray, "H W 3"]:
    """Corrupt an image.

    Args:
        pixels: The image; the parameters are for a width and height of 224 pixels.
        kind: A key of ``CORRUPTIONS``.
        strength: 1 (weak) to 5 (strong).
        key: Name of the image. Random numbers depend on it, the kind and the strength only, so that
            an image is corrupted in the same way on any rank, in any worker, and in any order.

    Raises:
        ConfigError: If kind or strength are unknown.

    Examples:
        >>> corrupt(np.full((2, 2, 3), 100, np.uint8), "contrast", 5, "a").ravel().tolist()[:3]
        [100, 100, 100]
    """
    check_corruption(kind, strength)
    function: Any = partial(CORRUPTIONS[kind][0], pixels / 255)
    digest = hashlib.sha256(f"{key}\0{kind}\0{strength}".encode()).digest()
    rng = generator(int.from_bytes(digest[:8], "big"))
    corrupted = function(*CORRUPTIONS[kind][1][strength - 1], rng=rng)
    result: UInt8[np.ndarray, "H W 3"] = np.rint(np.clip(corrupted, 0, 1) * 255).astype(np.uint8)
    return result
