"""Collect what a model retrieves: recall curves, random queries, most confident errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.evaluation.correct_pairs import Candidates
from clipkit.evaluation.outcomes.outcomes import Outcomes
from clipkit.evaluation.report.collect.scores import (
    best_hits,
    best_match,
    matches,
    rank_of_match,
)
from clipkit.evaluation.report.collect.thumbnails import Thumbnails
from clipkit.evaluation.report.content import (
    CaptionHit,
    Gallery,
    ImageHit,
    ImageQuery,
    RecallCurve,
    TextQuery,
)
from clipkit.metrics.ranking import pair_ranks

_DIRECTIONS: Final = {"text_to_image/": "Text to image", "image_to_text/": "Image to text"}
_NUM_POINTS: Final = 60
_CHUNK: Final = 64
_MAX_QUERIES: Final = 2000
"""Largest number of queries among which errors are looked for: each is compared with all."""


def recall_curves(candidates: Candidates, parts: Sequence[Outcomes] = ()) -> list[RecallCurve]:
    """Return the curve of each direction.

    Args:
        candidates: Images and texts, and which of them match.
        parts: Outcomes of the retrieval of these images and texts, whose ranks are used; without
            them all queries are ranked.
    """
    ranks = {
        part.prefix: part.columns["rank"]
        for part in parts
        if part.kind == "retrieval" and part.prefix in _DIRECTIONS and "rank" in part.columns
    }
    if set(ranks) != set(_DIRECTIONS):
        both = pair_ranks(candidates.images, candidates.texts, candidates.pairs)
        best = [of_pairs.incorrect[of_pairs.correct == 0] for of_pairs in reversed(both)]
        ranks = dict(zip(_DIRECTIONS, best, strict=True))
    return [
        recall_curve(title, ranks[prefix].long(), count)
        for (prefix, title), count in zip(
            _DIRECTIONS.items(), (len(candidates.images), len(candidates.texts)), strict=True
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
    note = f"Selected at random from {search.name} ({search.num_images:,} images, seed {seed})."
    return _gallery(search, texts, images, note)


def error_gallery(search: Search, num_queries: int, seed: int) -> Gallery:
    """Select the queries whose incorrect best answer exceeds the right one by most."""
    texts, images = search.sample(_MAX_QUERIES, seed)
    worst_texts = _worst(texts, search.text_margins(texts), num_queries)
    worst_images = _worst(images, search.image_margins(images), num_queries)
    note = (
        f"Of {len(texts):,} captions and {len(images):,} images of {search.name}"
        f"{', selected at random' if len(texts) < len(search.texts) else ''}: those "
        f"whose best incorrect answer exceeds the right one by the largest similarity."
    )
    return _gallery(search, worst_texts, worst_images, note)


@final
class Search:
    """Retrieves images and texts.

    Args:
        name: Name of the data.
        candidates: Images and texts, and which of them match.
        captions: Captions of the data, of which the texts are some.
        thumbnails: Thumbnails of the images.
    """

    def __init__(
        self,
        name: str,
        candidates: Candidates,
        captions: Sequence[str],
        thumbnails: Thumbnails,
    ) -> None:
        self.name = name
        self.texts = [captions[row] for row in candidates.caption_rows.tolist()]
        self.num_images = len(candidates.images)
        self._candidates = candidates
        self._thumbnails = thumbnails

    def sample(self, count: int, seed: int) -> tuple[list[int], list[int]]:
        """Return rows of texts and of images that have an answer, selected at random."""
        generator = torch.Generator().manual_seed(seed)
        images, texts = (torch.unique(side) for side in self._candidates.pairs.T)
        texts = texts[torch.randperm(len(texts), generator=generator)[:count]]
        images = images[torch.randperm(len(images), generator=generator)[:count]]
        return texts.tolist(), images.tolist()

    def text_query(self, row: int) -> TextQuery:
        """Return the images for a text."""
        scores, is_match = (side[:, 0] for side in self._of_texts(torch.tensor([row])))
        hits = [
            ImageHit(self._thumbnails[other], value, bool(is_match[other]))
            for other, value in best_hits(scores)
        ]
        answer = self._thumbnails[best_match(scores, is_match)]
        return TextQuery(self.texts[row], hits, answer, rank_of_match(scores, is_match))

    def image_query(self, row: int) -> ImageQuery:
        """Return the texts for an image."""
        scores, is_match = (side[:, 0] for side in self._of_images(torch.tensor([row])))
        hits = [
            CaptionHit(self.texts[other], value, bool(is_match[other]))
            for other, value in best_hits(scores)
        ]
        answer = self.texts[best_match(scores, is_match)]
        return ImageQuery(self._thumbnails[row], hits, answer, rank_of_match(scores, is_match))

    def text_margins(self, rows: Sequence[int]) -> Float[Tensor, " rows"]:
        """Return by how much the best incorrect image of texts exceeds the best right one."""
        parts = torch.split(torch.tensor(rows), _CHUNK)
        return torch.cat([_margins(*self._of_texts(part)) for part in parts])

    def image_margins(self, rows: Sequence[int]) -> Float[Tensor, " rows"]:
        """Return by how much the best incorrect text of images exceeds the best right one."""
        parts = torch.split(torch.tensor(rows), _CHUNK)
        return torch.cat([_margins(*self._of_images(part)) for part in parts])

    def _of_texts(self, rows: Int64[Tensor, " rows"]) -> _Scores:
        images, texts = self._candidates.images, self._candidates.texts
        return images @ texts[rows].T, matches(self._candidates.pairs, len(images), rows)

    def _of_images(self, rows: Int64[Tensor, " rows"]) -> _Scores:
        images, texts = self._candidates.images, self._candidates.texts
        pairs = self._candidates.pairs.flip(1)
        return texts @ images[rows].T, matches(pairs, len(texts), rows)


_Scores = tuple[Float[Tensor, "candidates rows"], Bool[Tensor, "candidates rows"]]
"""Score of each candidate for each query, and whether it is a right answer."""


def _gallery(search: Search, texts: Iterable[int], images: Iterable[int], note: str) -> Gallery:
    return Gallery(
        [search.text_query(row) for row in texts], [search.image_query(row) for row in images], note
    )


def _worst(rows: Sequence[int], margins: Float[Tensor, " rows"], count: int) -> list[int]:
    order = margins.argsort(descending=True, stable=True)[:count].tolist()
    return [rows[place] for place in order if margins[place] >= 0]


def _margins(
    scores: Float[Tensor, "candidates rows"], is_match: Bool[Tensor, "candidates rows"]
) -> Float[Tensor, " rows"]:
    right = scores.masked_fill(~is_match, -torch.inf).amax(0)
    return scores.masked_fill(is_match, -torch.inf).amax(0) - right
