"""Collect what re-ranking by a joint encoder changed."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.evaluators.reranked_retrieval import (
    PREFIX,
    RerankedDirection,
    RerankedEvaluation,
)
from clipkit.evaluation.report.collect.thumbnails import Thumbnails
from clipkit.evaluation.report.content import (
    ChangedQuery,
    RerankedQueries,
    Reranking,
    ShownInput,
)

_TITLES: Final = {"text_to_image/": "Text to image", "image_to_text/": "Image to text"}
_RECALL: Final = "recall_at_"


def reranking_of(
    measured: RerankedEvaluation,
    data: EvaluationDataset,
    num_queries: int = 12,
    thumbnail_pixels: int = 112,
    seed: int = 0,
) -> Reranking:
    """Return recall before and after re-ranking, and some of the queries that it changed.

    Args:
        measured: The retrieval before and after.
        data: Its images.
        num_queries: Number of queries of each direction, selected at random.
        thumbnail_pixels: Longest side of an image in the page, in pixels.
        seed: Seed of the selection.
    """
    shown = _Shown(measured, data, thumbnail_pixels)
    directions = [
        _queries(measured, one, shown, num_queries, seed) for one in reversed(measured.directions)
    ]
    note = f"Selected at random among the queries whose first candidate changed (seed {seed})."
    return Reranking(measured.num_best, directions, note)


class _Shown:
    """Images and texts of a retrieval as the page shows them."""

    def __init__(
        self, measured: RerankedEvaluation, data: EvaluationDataset, thumbnail_pixels: int
    ) -> None:
        pair = measured.pair
        self.texts = [pair.captions[row] for row in pair.candidates.caption_rows.tolist()]
        captions: dict[int, str] = {}
        for image, text in pair.candidates.pairs.tolist():
            captions.setdefault(image, self.texts[text])
        self._thumbnails = Thumbnails(data, captions, thumbnail_pixels)

    def image(self, row: int) -> ShownInput:
        thumbnail = self._thumbnails[row]
        return ShownInput(thumbnail.caption, thumbnail)

    def text(self, row: int) -> ShownInput:
        return ShownInput(self.texts[row])


def _queries(
    measured: RerankedEvaluation,
    direction: RerankedDirection,
    shown: _Shown,
    num_queries: int,
    seed: int,
) -> RerankedQueries:
    of_images = direction.prefix == "image_to_text/"
    pairs = measured.pair.candidates.pairs
    pairs = pairs if of_images else pairs.flip(1)
    before, after = direction.first_before.cpu(), direction.first_after.cpu()
    changed = (before != after).nonzero()[:, 0]
    order = torch.randperm(len(changed), generator=torch.Generator().manual_seed(seed))
    query, other = (shown.image, shown.text) if of_images else (shown.text, shown.image)
    examples = [
        ChangedQuery(
            query(row),
            other(int(before[row])),
            other(int(after[row])),
            (_belongs(pairs, row, before[row]), _belongs(pairs, row, after[row])),
        )
        for row in changed[order[:num_queries]].tolist()
    ]
    metrics, name = measured.evaluation.metrics, f"{direction.prefix}{_RECALL}"
    ks = sorted(int(key.removeprefix(name)) for key in metrics if key.startswith(name))
    return RerankedQueries(
        direction=_TITLES[direction.prefix],
        recalls=[(k, metrics[f"{name}{k}"], metrics[f"{PREFIX}{name}{k}"]) for k in ks],
        seconds_per_query=direction.seconds_per_query,
        num_queries=len(before),
        num_changed=len(changed),
        examples=sorted(examples, key=lambda one: one.effect),  # better, other, worse
    )


def _belongs(pairs: Tensor, query: int, candidate: Tensor) -> bool:
    return bool(((pairs[:, 0] == query) & (pairs[:, 1] == candidate)).any())
