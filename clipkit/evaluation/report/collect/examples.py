"""Collect examples of what a model retrieves and predicts on a data set."""

from __future__ import annotations

import io
from typing import Final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from clipkit.data.images.formats import DEFAULT_MAX_PIXELS, open_image
from clipkit.data.samples.content import sample_errors
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import DataError
from clipkit.evaluation import embedding_health as health
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.embedding import EmbeddedPairs, embed_pairs
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.zero_shot import ZeroShotClassification, confusion_counts
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.report.content import (
    CaptionHit,
    Confusion,
    EmbeddingHealth,
    Examples,
    Fact,
    Gallery,
    ImageHit,
    ImageQuery,
    SimilarityHistogram,
    TextQuery,
    Thumbnail,
)
from clipkit.models import DualEncoder

_NUM_BINS: Final = 48
_NUM_HITS: Final = 5


def build_examples(
    encoder: DualEncoder,
    data: EvaluationDataset,
    *,
    classes: ZeroShotClassification | LabelHeadClassification | None = None,
    tokenizer: Tokenizer | None = None,
    options: EmbedOptions | None = None,
    num_queries: int = 24,
    thumbnail_pixels: int = 112,
    seed: int = 0,
) -> Examples:
    """Collect retrieval examples, embedding health and a confusion matrix of a model.

    Args:
        encoder: Model to examine.
        data: Images with captions.
        classes: Classifier whose confusion matrix is shown; None for none.
        tokenizer: Tokenizer of the captions; None for the text tower's own.
        options: How to compute the embeddings; None for the defaults.
        num_queries: Number of queries in each direction, selected at random.
        thumbnail_pixels: Longest side of an image in the page, in pixels.
        seed: Seed of the selection.

    Returns:
        Examples for ``ReportData``.

    Raises:
        DataError: If the data have no captions.
    """
    pairs = embed_pairs(encoder, data, options or EmbedOptions(), tokenizer)
    if not pairs.captions:
        raise DataError(f"{data.name}: a gallery needs captions (member .txt), got none")
    search = _Search(data, pairs, thumbnail_pixels)
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randperm(len(pairs.captions), generator=generator)[:num_queries].tolist()
    images = torch.randperm(len(pairs.keys), generator=generator)[:num_queries].tolist()
    gallery = Gallery(
        text_queries=[search.text_query(row) for row in texts],
        image_queries=[search.image_query(row) for row in images if row in search.first_caption],
        note=f"Selected at random from {data.name} ({len(pairs.keys):,} images, seed {seed}).",
    )
    confusion = None
    if classes is not None:
        predictions = classes.predict(encoder)
        confusion = Confusion(predictions.class_names, confusion_counts(predictions).tolist())
    measures = EmbeddingHealth(similarity_histogram(pairs), _measures(pairs))
    return Examples(gallery, confusion, measures)


def similarity_histogram(pairs: EmbeddedPairs, num_bins: int = _NUM_BINS) -> SimilarityHistogram:
    """Count cosine similarities of matching pairs, and of the other pairs of 1,024 spread rows."""
    matching = (pairs.images[pairs.text_to_image] * pairs.texts).sum(1)
    rows = health.spread(torch.arange(len(pairs.texts))[:, None], 1024).flatten()
    owners = pairs.text_to_image[rows]
    table = pairs.images[owners] @ pairs.texts[rows].T
    other = table[owners[:, None] != owners[None, :]]
    everything = torch.cat([matching, other])
    low, high = float(everything.min()), float(everything.max())
    high = max(high, low + 1e-3)

    def shares(values: Float[Tensor, " n"]) -> list[float]:
        counts = torch.histc(values, num_bins, low, high)
        return [float(share) for share in counts / max(len(values), 1)]

    edges = torch.linspace(low, high, num_bins + 1)
    return SimilarityHistogram([float(edge) for edge in edges], shares(matching), shares(other))


class _Search:
    """Retrieves images and captions, and makes thumbnails."""

    def __init__(self, data: EvaluationDataset, pairs: EmbeddedPairs, pixels: int) -> None:
        self._data = data
        self._pairs = pairs
        self._pixels = pixels
        self.first_caption: dict[int, str] = {}
        for row, owner in enumerate(pairs.text_to_image.tolist()):
            self.first_caption.setdefault(owner, pairs.captions[row])

    def text_query(self, row: int) -> TextQuery:
        pairs = self._pairs
        owner = int(pairs.text_to_image[row])
        scores = pairs.images @ pairs.texts[row]
        best, values = _best(scores)
        hits = [
            ImageHit(self._thumbnail(other), value, other == owner)
            for other, value in zip(best, values, strict=True)
        ]
        rank = 1 + int((scores > scores[owner]).sum())
        return TextQuery(pairs.captions[row], hits, self._thumbnail(owner), rank)

    def image_query(self, row: int) -> ImageQuery:
        pairs = self._pairs
        scores = pairs.texts @ pairs.images[row]
        is_match = pairs.text_to_image == row
        best, values = _best(scores)
        hits = [
            CaptionHit(pairs.captions[other], value, bool(is_match[other]))
            for other, value in zip(best, values, strict=True)
        ]
        right = int(torch.where(is_match, scores, -torch.inf).argmax())
        rank = 1 + int((scores > scores[right]).sum())
        return ImageQuery(self._thumbnail(row), hits, pairs.captions[right], rank)

    def _thumbnail(self, row: int) -> Thumbnail:
        sample = self._data.sample(row)
        with sample_errors(self._data.name, sample.key):
            data = thumbnail(sample.image, self._pixels)
        return Thumbnail(data, self.first_caption.get(row, sample.key))


def thumbnail(data: bytes, pixels: int) -> bytes:
    """Reduce an image to a small WebP file on a white background."""
    image = open_image(data, DEFAULT_MAX_PIXELS).convert("RGBA")
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    out = io.BytesIO()
    canvas.convert("RGB").save(out, "WEBP", quality=82, method=6)
    return out.getvalue()


def _best(scores: Float[Tensor, " N"]) -> tuple[list[int], list[float]]:
    values, rows = scores.topk(min(_NUM_HITS, len(scores)))
    return rows.tolist(), values.tolist()


def _measures(pairs: EmbeddedPairs) -> list[Fact]:
    images, texts = pairs.images, pairs.texts
    rank_note = f"RankMe: number of dimensions in use, of {images.shape[1]}"
    alignment = health.alignment(images[pairs.text_to_image], texts)
    uniformity = f"{health.uniformity(images):.2f}".replace("-", "\N{MINUS SIGN}")
    gap = health.modality_gap(images, texts)
    near = "mean squared distance of matching pairs, 0 to 4; lower is closer"
    even = "0 if all embeddings are equal; lower is more evenly spread"
    apart = "distance between the means of images and texts, 0 to 2"
    return [
        Fact("Effective rank of images", f"{health.effective_rank(images):.0f}", rank_note),
        Fact("Effective rank of texts", f"{health.effective_rank(texts):.0f}", rank_note),
        Fact("Alignment", f"{alignment:.2f}", near),
        Fact("Uniformity of images", uniformity, even),
        Fact("Modality gap", f"{gap:.2f}", apart),
    ]
