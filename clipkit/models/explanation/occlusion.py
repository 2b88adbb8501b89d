"""Occlusion: how much the similarity drops without a part of the image, or without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CELLS: Final = 8
"""Largest number of rows and columns of the cells of an image."""
_BATCH_SIZE: Final = 32
_Item = TypeVar("_Item")

Images = Float[Tensor, "B channels H W"] | Float[Tensor, "B patches values"]
"""Normalised pixels of images of one shape, or patches of images of any shape."""


def occlude_image(
    images: Images,
    grids: Int64[Tensor, "B 2"] | None,
    similarities: Callable[[Images, Int64[Tensor, "B 2"] | None], Float[Tensor, "B *rest"]],
) -> Float[Tensor, "rows columns *rest"]:
    """Compute the drop of the similarity without each cell of an image.

    A cell is painted in the mean colour of the image, or the mean of a spectrogram (Zeiler and
    Fergus 2014, arXiv:1311.2901, section 4.2, paint it grey, which on a white ground is itself a
    shape).

    Args:
        images: One image, or its patches without padding; or a spectrogram as an image of one
            channel.
        grids: Rows and columns of the patches; None for an image.
        similarities: Returns the similarity of each image of a batch, or several of each.

    Returns:
        Similarity of the image minus that without each of at most 8 x 8 cells.
    """
    height, width = images.shape[2:] if grids is None else grids[0].tolist()
    values = images.movedim(1, -1) if grids is None else images  # colours are last
    channels = values.shape[-1] if grids is None else 3
    mean = values.reshape(-1, channels).mean(0)
    colour = mean.repeat(values.shape[-1] // channels)[:, None, None]
    row_places, column_places = _cells(height), _cells(width)
    occluded = [images]
    for rows in row_places:
        for columns in column_places:
            copy = images.clone()
            pixels = copy if grids is None else copy.view(1, height, width, -1).movedim(-1, 1)
            pixels[:, :, rows, columns] = colour
            occluded.append(copy)
    scores = torch.cat(
        [
            similarities(torch.cat(part), None if grids is None else grids.expand(len(part), 2))
            for part in _batches(occluded)
        ]
    )
    drops = scores[0] - scores[1:]
    return drops.view(len(row_places), len(column_places), *drops.shape[1:])


def _cells(length: int) -> list[slice]:
    """Divide a side into equal cells, up to rounding."""
    number = min(CELLS, length)
    edges = [n * length // number for n in range(number + 1)]
    return [slice(*pair) for pair in pairwise(edges)]


def occlude_words(
    text: str,
    words: list[slice],
    similarities: Callable[[list[str]], Float[Tensor, " texts"]],
) -> Float[Tensor, " words"]:
    """Compute the drop of the similarity without each word of a text.

    Args:
        text: The text.
        words: Position of each word.
        similarities: Returns the similarity of each text of a batch.
    """
    texts = [text, *(text[: word.start] + text[word.stop :] for word in words)]
    scores = torch.cat([similarities(part) for part in _batches(texts)])
    return scores[0] - scores[1:]


def _batches(items: list[_Item]) -> Iterator[list[_Item]]:
    for start in range(0, len(items), _BATCH_SIZE):
        yield items[start : start + _BATCH_SIZE]
