"""Exact ranks of the correct pairs of images and texts, in tiles of the similarities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.distributed.collectives import rank, sum_over_ranks, world_size
from clipkit.errors import MetricError
from clipkit.metrics.pair_counts import PairCounts, Tile

_CHUNK: Final = 1024
_GPU_CHUNK: Final = 4096  # a GPU computes smaller tiles in less time than it takes to start them


@dataclass(frozen=True, slots=True)
class PairRanks:
    """Ranks of the P correct pairs in one direction, from images to texts or from texts to images.

    A query has one correct pair for each of its correct candidates. A tie between a correct and an
    incorrect candidate is never won by the correct one.

    Args:
        query: Row of the query of each pair, ascending.
        incorrect: Number of incorrect candidates of the query that score at least as high.
        correct: Number of correct candidates of the query that rank before this one: 0 for the best
            one, then 1, and so on.
    """

    query: Int64[Tensor, " pairs"]
    incorrect: Int64[Tensor, " pairs"]
    correct: Int64[Tensor, " pairs"]


@torch.no_grad()
def pair_ranks(
    image: Float[Tensor, "images D"],
    text: Float[Tensor, "texts D"],
    pairs: Int64[Tensor, "pairs 2"],
    chunk_size: int | None = None,
    over_ranks: bool = False,
) -> tuple[PairRanks, PairRanks]:
    """Compute the ranks of all correct pairs, from images to texts and from texts to images.

    An image may have several correct texts, and a text several correct images. Memory is linear in
    the numbers of images, texts and pairs. Comparisons that fp32 cannot decide are made in fp64, so
    that the ranks depend neither on the chunk size nor on the order of the candidates.

    Args:
        image: Unit-norm embeddings of distinct images.
        text: Unit-norm embeddings of texts.
        pairs: Row of the image and row of the text of each correct pair. Images and texts without a
            pair are candidates only.
        chunk_size: Rows and columns of the similarities held at a time; None for 1,024, and
            for 4,096 on a GPU.
        over_ranks: Whether the ranks of the process group divide the work. All of them then call
            this function with the same arguments and get the same ranks.

    Returns:
        The ranks with images as queries, and those with texts as queries.

    Raises:
        MetricError: If an embedding is NaN or infinite, or the shapes do not fit.

    Examples:
        >>> one = torch.eye(3)
        >>> of_images, of_texts = pair_ranks(one, one, torch.tensor([[0, 0], [1, 1], [2, 0]]))
        >>> of_images.incorrect.tolist(), of_texts.query.tolist(), of_texts.incorrect.tolist()
        ([0, 0, 2], [0, 0, 1], [1, 0, 0])
    """
    _check(image, text, pairs)
    default = _GPU_CHUNK if image.is_cuda else _CHUNK
    chunk = default if chunk_size is None else chunk_size
    if chunk < 1:
        raise MetricError(f"chunk_size: expected a positive number or None, got {chunk_size}")
    pairs = _distinct(pairs, len(text))
    image, text = image.float(), text.float()
    scores = torch.cat(
        [
            (image[part[:, 0]].double() * text[part[:, 1]].double()).sum(1)
            for part in torch.split(pairs, chunk)
        ]
    )
    of_images = PairCounts(pairs[:, 0], scores, len(image), "image")
    of_texts = PairCounts(pairs[:, 1], scores, len(text), "text")
    first, stride = (rank(), world_size()) if over_ranks else (0, 1)
    with full_float32_products():
        for start in range(first * chunk, len(image), stride * chunk):
            rows = image[start : start + chunk]
            block = _of_rows(pairs, start, start + chunk)
            for column in range(0, len(text), chunk):
                tile = Tile(rows, text[column : column + chunk], start, column, block)
                of_images.add(tile)
                of_texts.add(tile)
    return _ranks(of_images, over_ranks), _ranks(of_texts, over_ranks)


def _ranks(counts: PairCounts, over_ranks: bool) -> PairRanks:
    """Return the ranks that follow from the counts of this rank, or of all ranks."""
    counted, alone = counts.counted, counts.alone
    if over_ranks:
        counted, alone = sum_over_ranks(torch.stack([counted, alone]))
    # a pair is reached by the candidates counted for it and for the later pairs of its query
    total = torch.cat([counted.flip(0).cumsum(0).flip(0), counted.new_zeros(1)])
    end = counts.start[counts.query + 1]
    place = torch.arange(len(end), device=end.device)
    return PairRanks(counts.query, total[:-1] - total[end] + alone, end - 1 - place)


def _distinct(pairs: Int64[Tensor, "pairs 2"], num_texts: int) -> Int64[Tensor, "distinct 2"]:
    """Return every pair once, by ascending image."""
    number = torch.unique(pairs[:, 0] * num_texts + pairs[:, 1])
    return torch.stack([number // num_texts, number % num_texts], 1)


def _of_rows(pairs: Int64[Tensor, "pairs 2"], start: int, stop: int) -> Int64[Tensor, "kept 2"]:
    """Return the pairs of some images, from pairs by ascending image."""
    bounds = torch.tensor([start, stop], device=pairs.device)
    first, last = torch.searchsorted(pairs[:, 0].contiguous(), bounds).tolist()
    return pairs[first:last]


def _check(image: Tensor, text: Tensor, pairs: Tensor) -> None:
    shapes = f"{list(image.shape)}, {list(text.shape)} and {list(pairs.shape)}"
    if image.ndim != 2 or text.ndim != 2 or image.shape[1] != text.shape[1]:
        raise MetricError(f"image, text, pairs: expected [N D], [texts D], [pairs 2], got {shapes}")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise MetricError(f"image, text, pairs: expected [N D], [texts D], [pairs 2], got {shapes}")
    if not len(image) or not len(text):
        raise MetricError(f"image and text: expected at least one of each, got {shapes}")
    for name, values in (("image", image), ("text", text)):
        # in parts: the check of all values at once takes more memory than they do
        if not torch.stack(
            [part.isfinite().all() for part in torch.split(values, _GPU_CHUNK)]
        ).all():
            raise MetricError(f"{name}: expected finite embeddings, got NaN or infinity")
    for name, size, rows in zip(
        ("images", "texts"), (len(image), len(text)), pairs.unbind(1), strict=True
    ):
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < size:
            raise MetricError(
                f"rows of {name}: expected rows 0 to {size - 1}, "
                f"got {int(rows.min())} to {int(rows.max())}"
            )


@contextmanager
def full_float32_products() -> Iterator[None]:
    """Disable TF32: its error of 1e-3 would change ranks."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
