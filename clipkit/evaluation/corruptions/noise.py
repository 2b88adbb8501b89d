"""Noise: Gaussian, shot and impulse noise."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def gaussian_noise(
    pixels: Float64[np.ndarray, "H W 3"], deviation: float, rng: np.random.Generator
) -> Float64[np.ndarray, "H W 3"]:
    """Add normal noise with a standard deviation, as at low light.

    Examples:
        >>> gaussian_noise(np.zeros((2, 2, 3)), 0.1, np.random.default_rng(0)).shape
        (2, 2, 3)
    """
    return pixels + rng.normal(scale=deviation, size=pixels.shape)


def shot_noise(
    pixels: Float64[np.ndarray, "H W 3"], photons: float, rng: np.random.Generator
) -> Float64[np.ndarray, "H W 3"]:
    """Draw each value from a Poisson distribution; white is a number of photons."""
    return rng.poisson(pixels * photons) / photons


def impulse_noise(
    pixels: Float64[np.ndarray, "H W 3"], share: float, rng: np.random.Generator
) -> Float64[np.ndarray, "H W 3"]:
    """Set a share of the values to 0 or 1, as bit errors do."""
    is_hit = rng.random(pixels.shape) < share
    return np.where(is_hit, rng.integers(0, 2, pixels.shape), pixels)
