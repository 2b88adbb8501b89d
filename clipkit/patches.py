"""Images of any shape as rows of patches: how many an image may have, and where they are.

Rows and columns of patches are the *grid* of an image. The patches of a batch are padded to its
longest image; what is padding, and where a patch was, follows from the grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import final

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import default_collate

from clipkit.errors import ConfigError, check_at_least

__all__ = ["TokenBudget", "padding_share", "patch_coordinates", "patch_validity", "to_patches"]

JoinedImages = tuple[
    UInt8[Tensor, "B 3 H W"] | UInt8[Tensor, "B patches values"], Int64[Tensor, "B 2"] | None
]
"""Pixels of several images, and rows and columns of patches of each, None for one shape."""


@final
@dataclass(frozen=True, slots=True)
class TokenBudget:
    """How many patches an image may have, and how an image uses them.

    Args:
        patch_size: Height and width of a patch, in pixels.
        max_tokens: Largest number of patches of an image.
        enlarge: Whether small images are enlarged until they use the budget, as SigLIP 2 does;
            otherwise they get the patches that their own pixels fill.

    Raises:
        ConfigError: If a number is below 1.

    Examples:
        >>> budget = TokenBudget(patch_size=16, max_tokens=256)
        >>> budget.grid(640, 480), budget.grid(64, 48)
        ((14, 18), (14, 18))
        >>> TokenBudget(patch_size=16, max_tokens=256, enlarge=False).grid(64, 48)
        (3, 4)
    """

    patch_size: int
    max_tokens: int
    enlarge: bool = True

    def __post_init__(self) -> None:
        check_at_least("patch_size", self.patch_size, 1)
        check_at_least("max_tokens", self.max_tokens, 1)

    @property
    def square_size(self) -> int:
        """Height and width of the largest square image within the budget, in pixels."""
        return isqrt(self.max_tokens) * self.patch_size

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Return the rows and columns of patches of an image.

        The image is scaled as far as the budget allows, and each side is then rounded up to
        complete patches: the aspect ratio changes by less than one patch.

        Args:
            width: Width of the image, in pixels.
            height: Height of the image, in pixels.

        Returns:
            Rows and columns, of which there are at most ``max_tokens`` patches.
        """
        if not self.enlarge:
            rows, columns = -(-height // self.patch_size), -(-width // self.patch_size)
            if rows * columns <= self.max_tokens:
                return rows, columns
        # The largest scale within the budget fills the rows or the columns without rounding.
        rows, columns_then = _most(height, width, self.max_tokens)
        columns, rows_then = _most(width, height, self.max_tokens)
        if rows * width >= columns * height:
            return rows, columns_then
        return rows_then, columns


def _most(side: int, other: int, max_tokens: int) -> tuple[int, int]:
    """Return the most patches that a side can be divided into, and those of the other side."""
    number = min(isqrt(max_tokens * side // other), max_tokens)
    while number * -(-other * number // side) > max_tokens:
        number -= 1
    return number, -(-other * number // side)


def to_patches(
    images: Sequence[UInt8[Tensor, "3 H W"]], patch_size: int
) -> tuple[UInt8[Tensor, "B patches values"], Int64[Tensor, "B 2"]]:
    """Cut images into patches, padded with zeros to the most patches of an image.

    Args:
        images: Pixels, 0 to 255; sides are multiples of ``patch_size``.
        patch_size: Height and width of a patch, in pixels.

    Returns:
        The values of each patch (by row, column and colour), row by row of the image, and the rows
        and columns of patches of each image.

    Raises:
        ConfigError: If a side is not a multiple of ``patch_size``.

    Examples:
        >>> wide = torch.zeros(3, 8, 24, dtype=torch.uint8)
        >>> patches, grids = to_patches([wide, wide[:, :, :16]], patch_size=8)
        >>> patches.shape, grids
        (torch.Size([2, 3, 192]), tensor([[1, 3],
                [1, 2]]))
    """
    rows = [_patches(image, patch_size) for image in images]
    grids = [[image.shape[1] // patch_size, image.shape[2] // patch_size] for image in images]
    return (
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        torch.tensor(grids, dtype=torch.int64),
    )


def _patches(
    image: UInt8[Tensor, "3 H W"], patch_size: int
) -> UInt8[Tensor, "image_patches values"]:
    height, width = image.shape[1:]
    if height % patch_size or width % patch_size:
        raise ConfigError(
            f"patch_size: expected images with sides that are multiples of {patch_size}, got "
            f"{height} x {width} pixels; an augmentation must keep the size of an image"
        )
    split = image.reshape(3, height // patch_size, patch_size, width // patch_size, patch_size)
    return split.permute(1, 3, 2, 4, 0).flatten(0, 1).flatten(1)


def join_images(
    images: Sequence[UInt8[Tensor, "3 H W"]], budget: TokenBudget | None
) -> JoinedImages:
    """Stack images of one shape, or cut images of any shape into patches.

    Args:
        images: Pixels, 0 to 255.
        budget: How many patches an image may have; None for images of one shape.

    Returns:
        The pixels; and rows and columns of patches of each image, None without a budget.
    """
    if budget is None:
        # torch.stack, in a worker process into shared memory, which is a copy less.
        stacked: Tensor = default_collate(list(images))
        return stacked, None
    return to_patches(images, budget.patch_size)


def patch_validity(
    grids: Int64[Tensor, "B 2"], num_patches: int
) -> Bool[Tensor, "B {num_patches}"]:
    """Return which patches belong to their image, and are no padding.

    Args:
        grids: Rows and columns of patches of each image.
        num_patches: Number of patches with padding.

    Examples:
        >>> patch_validity(torch.tensor([[1, 3], [1, 2]]), 3)
        tensor([[ True,  True,  True],
                [ True,  True, False]])
    """
    return torch.arange(num_patches, device=grids.device) < grids.prod(1, keepdim=True)


def patch_coordinates(
    grids: Int64[Tensor, "B 2"], num_patches: int
) -> Int64[Tensor, "B {num_patches} 2"]:
    """Return the row and the column of each patch in its image; zeros for padding.

    Args:
        grids: Rows and columns of patches of each image.
        num_patches: Number of patches with padding.

    Examples:
        >>> patch_coordinates(torch.tensor([[2, 1]]), 3)
        tensor([[[0, 0],
                 [1, 0],
                 [0, 0]]])
    """
    numbers = torch.arange(num_patches, device=grids.device)
    columns = grids[:, 1:]
    places = torch.stack([numbers // columns, numbers % columns], dim=-1)
    return places * patch_validity(grids, num_patches)[..., None]


def padding_share(grids: Int64[Tensor, "B 2"], num_patches: int) -> Float[Tensor, ""]:
    """Return the share of a batch's patches that is padding, on the device of the grids.

    Args:
        grids: Rows and columns of patches of each image.
        num_patches: Number of patches with padding.

    Examples:
        >>> padding_share(torch.tensor([[2, 2], [1, 2]]), 4)
        tensor(0.2500)
    """
    return 1 - grids.prod(1).sum() / (len(grids) * num_patches)
