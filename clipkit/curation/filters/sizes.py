"""Filters by the size of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from clipkit.curation.candidates import Candidates
from clipkit.curation.filters.base import Decision, Filter
from clipkit.errors import check_at_least


@final
@dataclass(frozen=True, slots=True)
class MinSideFilter(Filter):
    """Keeps images whose shorter side is long enough.

    An image of unknown size is removed.

    Args:
        pixels: Least length of the shorter side.

    Raises:
        ConfigError: If it is less than 1.
    """

    pixels: int

    def __post_init__(self) -> None:
        check_at_least("min_side", self.pixels, 1)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"shorter side of at least {self.pixels} pixels"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove smaller images."""
        width, height = sizes(candidates)
        sides = np.minimum(width, height)
        limits = (float(self.pixels),)
        values = sides.astype(np.float32)
        return Decision(~(sides >= self.pixels), values, "Shorter side, pixels", limits)


@final
@dataclass(frozen=True, slots=True)
class MinPixelsFilter(Filter):
    """Keeps images that have enough pixels.

    An image of unknown size is removed.

    Args:
        pixels: Least product of width and height.

    Raises:
        ConfigError: If it is less than 1.
    """

    pixels: int

    def __post_init__(self) -> None:
        check_at_least("min_pixels", self.pixels, 1)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"at least {self.pixels} pixels"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove smaller images."""
        width, height = sizes(candidates)
        areas = width * height
        limits = (float(self.pixels),)
        values = areas.astype(np.float32)
        return Decision(~(areas >= self.pixels), values, "Pixels of the image", limits)


@final
@dataclass(frozen=True, slots=True)
class MaxAspectFilter(Filter):
    """Keeps images that are not too wide or too high.

    An image of unknown size is removed.

    Args:
        ratio: Largest ratio of the longer side to the shorter side.

    Raises:
        ConfigError: If it is less than 1.
    """

    ratio: float

    def __post_init__(self) -> None:
        check_at_least("max_aspect", self.ratio, 1.0)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"aspect ratio of at most {self.ratio:g}"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove images with a larger ratio."""
        width, height = sizes(candidates)
        # Compared as products: 300 x 100 has exactly the ratio 3, whatever the rounding.
        kept = np.maximum(width, height) <= self.ratio * np.minimum(width, height)
        ratios = np.maximum(width, height) / np.maximum(np.minimum(width, height), 1)
        values = ratios.astype(np.float32)
        return Decision(~kept, values, "Longer side by shorter side", (float(self.ratio),))


def sizes(candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Return widths and heights in pixels as float64; NaN where a size is unknown."""
    return candidates.numbers("width_pixels"), candidates.numbers("height_pixels")
