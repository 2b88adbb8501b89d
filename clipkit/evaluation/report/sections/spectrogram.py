"""Draw a spectrogram in shades of grey, on which a heat map in colours can be seen."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

_RATIO: Final = 0.5
"""Height divided by width, whatever the number of bands and frames."""
_QUIET, _LOUD = 5, 99.5
"""Percentiles that are white and black: a single loud value must not make the rest white."""
_WHITE: Final = 255
_LEAST_RANGE: Final = 1e-6


def draw_spectrogram(values: Float[Tensor, "num_mels num_frames"], width: int) -> Image.Image:
    """Draw a spectrogram: time from left to right, low bands at the bottom, loud values dark.

    Args:
        values: The spectrogram, in a logarithmic unit.
        width: Width of the image, in pixels; its height is half of it.

    Examples:
        >>> draw_spectrogram(torch.eye(4), width=80).size
        (80, 40)
    """
    rows = values.numpy()[::-1].astype(np.float32)
    low, high = np.percentile(rows, [_QUIET, _LOUD])
    share = ((rows - low) / max(high - low, _LEAST_RANGE)).clip(0, 1)
    grey = Image.fromarray((_WHITE * (1 - share)).round().astype(np.uint8))
    size = (width, max(1, round(_RATIO * width)))
    return grey.resize(size, Image.Resampling.BICUBIC).convert("RGB")
