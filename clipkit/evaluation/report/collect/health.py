"""Collect the measures of embeddings that need no labels."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.evaluation import embedding_health as health
from clipkit.evaluation.embedding import EmbeddedPairs
from clipkit.evaluation.report.collect.planes import fit_plane
from clipkit.evaluation.report.content import Clouds, EmbeddingHealth, Fact, SimilarityHistogram

_NUM_BINS: Final = 48
_MAX_ROWS: Final = 20_000
"""Largest number of images, and of pairs, that are measured."""
_MAX_POINTS: Final = 1000


def measure_health(pairs: EmbeddedPairs, seed: int) -> EmbeddingHealth:
    """Measure embeddings; without captions only what needs images alone.

    Of more than 20,000 images or pairs, as many are selected at random, and the page says so.
    """
    images = _sample(pairs.images, _MAX_ROWS, seed)
    if not pairs.captions:
        return EmbeddingHealth(measures=_image_measures(images, len(pairs.images)))
    rows = _sample(torch.arange(len(pairs.texts)), _MAX_ROWS, seed)
    sample = EmbeddedPairs(
        pairs.images[pairs.text_to_image[rows]], pairs.texts[rows], torch.arange(len(rows)),
        pairs.labels, pairs.keys, pairs.captions,
    )  # fmt: skip
    gap = health.modality_gap(images, sample.texts)
    rank = f"{health.effective_rank(sample.texts):.0f}"
    alignment = health.alignment(sample.images, sample.texts)
    near = "mean squared distance of matching pairs, 0 to 4; lower is closer"
    apart = "distance between the means of images and texts, 0 to 2"
    measures = [
        *_image_measures(images, len(pairs.images)),
        Fact("Effective rank of texts", rank, _rank_note(rows, len(pairs.texts), images.shape[1])),
        Fact("Alignment", f"{alignment:.2f}", near),
        Fact("Modality gap", f"{gap:.2f}", apart),
    ]
    return EmbeddingHealth(similarity_histogram(pairs), measures, clouds(pairs, seed))


def similarity_histogram(pairs: EmbeddedPairs, num_bins: int = _NUM_BINS) -> SimilarityHistogram:
    """Count cosine similarities of at most 20,000 matching and of the pairs of 1,024 other rows."""
    every = torch.arange(len(pairs.texts))[:, None]
    few = health.spread(every, _MAX_ROWS).flatten()
    matching = (pairs.images[pairs.text_to_image[few]] * pairs.texts[few]).sum(1)
    rows = health.spread(every, 1024).flatten()
    owners = pairs.text_to_image[rows]
    table = pairs.images[owners] @ pairs.texts[rows].T
    other = table[owners[:, None] != owners[None, :]]
    everything = torch.cat([matching, other])
    low, high = float(everything.min()), float(everything.max())
    high = max(high, low + 1e-3)

    def shares(values: Float[Tensor, " values"]) -> list[float]:
        counts = torch.histc(values, num_bins, low, high)
        return [float(share) for share in counts / max(len(values), 1)]

    edges = torch.linspace(low, high, num_bins + 1)
    return SimilarityHistogram([float(edge) for edge in edges], shares(matching), shares(other))


def clouds(pairs: EmbeddedPairs, seed: int) -> Clouds:
    """Place at most 1,000 images and 1,000 texts on their common principal components."""
    images = _sample(pairs.images, _MAX_POINTS, seed)
    texts = _sample(pairs.texts, _MAX_POINTS, seed)
    plane = fit_plane(torch.cat([images, texts]))
    note = f"principal components, {100 * plane.explained:.0f} % of the variance"
    return Clouds(plane.place(images), plane.place(texts), note)


def _image_measures(images: Float[Tensor, "N D"], total: int) -> list[Fact]:
    uniformity = "–"  # of one image
    if len(images) > 1:
        uniformity = f"{health.uniformity(images):.2f}".replace("-", "\N{MINUS SIGN}")
    even = "0 if all embeddings are equal; lower is more evenly spread"
    note = _rank_note(images, total, images.shape[1])
    return [
        Fact("Effective rank of images", f"{health.effective_rank(images):.0f}", note),
        Fact("Uniformity of images", uniformity, even),
    ]


def _rank_note(rows: Tensor, total: int, width: int) -> str:
    sampled = f"; measured on {len(rows):,} of {total:,}" if len(rows) < total else ""
    return f"RankMe: number of dimensions in use, of {width}{sampled}"


def _sample(rows: Tensor, limit: int, seed: int) -> Tensor:
    if len(rows) <= limit:
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:limit].sort().values]
