"""Trained positions of patches, for images of another size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize_positions(
    positions: Float[Tensor, "positions width"], height: int, width: int
) -> Float[Tensor, "resized width"]:
    """Interpolate the grid of positions; those before it (of a class token) stay.

    Examples:
        >>> resize_positions(torch.zeros(1 + 49, 8), 4, 4).shape
        torch.Size([17, 8])
    """
    side = math.isqrt(len(positions))
    before = len(positions) - side * side
    if (height, width) == (side, side):
        return positions
    grid = positions[before:].float().T.reshape(1, -1, side, side)
    resized = F.interpolate(grid, (height, width), mode="bicubic", antialias=True)
    rows = resized.reshape(grid.shape[1], -1).T.to(positions.dtype)
    return torch.cat([positions[:before], rows])
