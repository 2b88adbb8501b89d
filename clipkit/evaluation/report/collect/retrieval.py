"""Collect what a model retrieves: recall curves, random queries, most confident errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.evaluation.embedding import EmbeddedPairs
from clipkit.evaluation.outcomes.outcomes import Outcomes
from clipkit.evaluation.report.collect.thumbnails import Thumbnails
from clipkit.evaluation.report.content import (
    CaptionHit,
    Gallery,
    ImageHit,
    ImageQuery,
    RecallCurve,
    TextQuery,
)
from clipkit.metrics.functional import retrieval_ranks

_DIRECTIONS: Final = {"text_to_image/": "Text to image", "image_to_text/": "Image to text"}
_NUM_HITS: Final = 5
_NUM_POINTS: Final = 60
_CHUNK: Final = 64
_MAX_QUERIES: Final = 2000
"""Largest number of queries among which errors are looked for: each is compared with all."""


def recall_curves(pairs: EmbeddedPairs, parts: Sequence[Outcomes] = ()) -> list[RecallCurve]:
    """Return the curve of each direction.

    Args:
        pairs: Embeddings, with captions.
        parts: Outcomes of the retrieval of these captions and images, whose ranks are used; without
            them all queries are ranked.
    """
    ranks = {
        part.prefix: part.columns["rank"]
        for part in parts
        if part.kind == "retrieval" and part.prefix in _DIRECTIONS and "rank" in part.columns
    }
    if set(ranks) != set(_DIRECTIONS):
        of_images, of_texts = retrieval_ranks(pairs.images, pairs.texts, pairs.text_to_image)
        of_images = of_images[torch.unique(pairs.text_to_image)]
        ranks = dict(zip(_DIRECTIONS, (of_texts, of_images), strict=True))
    return [
        recall_curve(title, ranks[prefix].long(), count)
        for (prefix, title), count in zip(
            _DIRECTIONS.items(), (len(pairs.images), len(pairs.texts)), strict=True
        )
    ]


def recall_curve(
    direction: str, ranks: Int64[Tensor, " queries"], num_candidates: int
) -> RecallCurve:
    """Return recall at about sixty numbers of candidates, evenly spaced by their logarithm.

    Args:
        direction: What is looked for.
        ranks: Number of incorrect candidates that score at least as high as the best right answer.
        num_candidates: Number of candidates.

    Examples:
        >>> recall_curve("Text to image", torch.tensor([0, 2]), 3).points
        [(1, 0.5), (2, 0.5), (3, 1.0)]
    """
    last = torch.log10(torch.tensor(float(num_candidates)))
    ks = torch.logspace(0, float(last), _NUM_POINTS).round().long().clamp(1, num_candidates)
    ks = torch.unique(ks)
    shares = torch.searchsorted(ranks.sort().values, ks) / len(ranks)
    return RecallCurve(
        direction=direction,
        points=list(zip(ks.tolist(), shares.tolist(), strict=True)),
        num_queries=len(ranks),
        num_candidates=num_candidates,
        median_rank=1 + float(ranks.double().quantile(0.5)),
        mean_rank=1 + float(ranks.double().mean()),
    )


def random_gallery(search: Search, num_queries: int, seed: int) -> Gallery:
    """Select queries of both directions at random."""
    texts, images = search.sample(num_queries, seed)
    note = (
        f"Selected at random from {search.name} ({len(search.pairs.keys):,} images, seed {seed})."
    )
    return _gallery(search, texts, images, note)


def error_gallery(search: Search, num_queries: int, seed: int) -> Gallery:
    """Select the queries whose incorrect best answer exceeds the right one by most."""
    texts, images = search.sample(_MAX_QUERIES, seed)
    worst_texts = _worst(texts, search.text_margins(texts), num_queries)
    worst_images = _worst(images, search.image_margins(images), num_queries)
    note = (
        f"Of {len(texts):,} captions and {len(images):,} images of {search.name}"
        f"{', selected at random' if len(texts) < len(search.pairs.captions) else ''}: those "
        f"whose best incorrect answer exceeds the right one by the largest similarity."
    )
    return _gallery(search, worst_texts, worst_images, note)


@final
class Search:
    """Retrieves images and captions.

    Args:
        name: Name of the data.
        pairs: Embeddings of the data, with captions.
        thumbnails: Thumbnails of the images.
    """

    def __init__(self, name: str, pairs: EmbeddedPairs, thumbnails: Thumbnails) -> None:
        self.name = name
        self.pairs = pairs
        self._thumbnails = thumbnails

    def sample(self, count: int, seed: int) -> tuple[list[int], list[int]]:
        """Return rows of captions and of images with a caption, selected at random."""
        generator = torch.Generator().manual_seed(seed)
        with_caption = torch.unique(self.pairs.text_to_image)
        texts = torch.randperm(len(self.pairs.captions), generator=generator)[:count]
        images = with_caption[torch.randperm(len(with_caption), generator=generator)[:count]]
        return texts.tolist(), images.tolist()

    def text_query(self, row: int) -> TextQuery:
        """Return the images for a caption."""
        owner = int(self.pairs.text_to_image[row])
        scores, is_match = self._of_text(row)
        hits = [
            ImageHit(self._thumbnails[other], value, bool(is_match[other]))
            for other, value in _best(scores)
        ]
        rank = _rank(scores, is_match)
        return TextQuery(self.pairs.captions[row], hits, self._thumbnails[owner], rank)

    def image_query(self, row: int) -> ImageQuery:
        """Return the captions for an image."""
        scores, is_match = self._of_image(row)
        captions = self.pairs.captions
        hits = [
            CaptionHit(captions[other], value, bool(is_match[other]))
            for other, value in _best(scores)
        ]
        right = int(torch.where(is_match, scores, -torch.inf).argmax())
        rank = _rank(scores, is_match)
        return ImageQuery(self._thumbnails[row], hits, captions[right], rank)

    def text_margins(self, rows: Sequence[int]) -> Float[Tensor, " n"]:
        """Return by how much the best incorrect image of captions exceeds the right one."""
        margins = [torch.empty(0)]
        for part in torch.split(torch.tensor(rows), _CHUNK):
            scores = self.pairs.images @ self.pairs.texts[part].T
            own = (self.pairs.text_to_image[part], torch.arange(len(part)))
            right = scores[own]
            scores[own] = -torch.inf
            margins.append(scores.amax(0) - right)
        return torch.cat(margins)

    def image_margins(self, rows: Sequence[int]) -> Float[Tensor, " n"]:
        """Return by how much the best incorrect caption of images exceeds the best right one."""
        margins = [torch.empty(0)]
        for part in torch.split(torch.tensor(rows), _CHUNK):
            scores = self.pairs.texts @ self.pairs.images[part].T
            is_match = self.pairs.text_to_image[:, None] == part
            right = scores.masked_fill(~is_match, -torch.inf).amax(0)
            margins.append(scores.masked_fill_(is_match, -torch.inf).amax(0) - right)
        return torch.cat(margins)

    def _of_text(self, row: int) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
        scores = self.pairs.images @ self.pairs.texts[row]
        is_match = torch.zeros(len(scores), dtype=torch.bool)
        is_match[self.pairs.text_to_image[row]] = True
        return scores, is_match

    def _of_image(self, row: int) -> tuple[Float[Tensor, " M"], Bool[Tensor, " M"]]:
        return self.pairs.texts @ self.pairs.images[row], self.pairs.text_to_image == row


def _gallery(search: Search, texts: Iterable[int], images: Iterable[int], note: str) -> Gallery:
    return Gallery(
        [search.text_query(row) for row in texts], [search.image_query(row) for row in images], note
    )


def _worst(rows: Sequence[int], margins: Float[Tensor, " n"], count: int) -> list[int]:
    order = margins.argsort(descending=True, stable=True)[:count].tolist()
    return [rows[place] for place in order if margins[place] >= 0]


def _rank(scores: Float[Tensor, " N"], is_match: Bool[Tensor, " N"]) -> int:
    """Return the rank of the best right answer, from 1; a tie is never a win."""
    return 1 + int(((scores >= scores[is_match].amax()) & ~is_match).sum())


def _best(scores: Float[Tensor, " N"]) -> list[tuple[int, float]]:
    values, rows = scores.topk(min(_NUM_HITS, len(scores)))
    return list(zip(rows.tolist(), values.tolist(), strict=True))
