"""From an encoder and its evaluation data to what the report shows of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from clipkit.data.images.formats import DEFAULT_MAX_PIXELS, open_image
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import DataError
from clipkit.evaluation import embedding_health as health
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.embedding import EmbeddedPairs, embed_pairs
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.zero_shot import (
    Predictions,
    ZeroShotClassification,
    confusion_counts,
)
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.report.data import (
    CaptionHit,
    Confusion,
    Fact,
    ImageQuery,
    Picture,
    PictureHit,
    SimilarityHistogram,
    TextQuery,
)
from clipkit.models import DualEncoder

_NUM_BINS: Final = 48
_NUM_HITS: Final = 5


@dataclass(frozen=True, slots=True)
class Examples:
    """Parts of ``ReportData`` that come from one data set; the names of the fields are the same."""

    text_queries: Sequence[TextQuery] = ()
    image_queries: Sequence[ImageQuery] = ()
    gallery_note: str = ""
    confusion: Confusion | None = None
    similarity: SimilarityHistogram | None = None
    health: Sequence[Fact] = ()


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
    """Galleries, histogram and health of the pairs; the confusion where classes are given.

    Args:
        encoder: The model.
        data: Pictures with captions.
        classes: Classification whose confusion is shown, of data that name their classes; None
            for none.
        tokenizer: None for the text tower's own.
        options: Batch size, precision …; None for the defaults.
        num_queries: Queries in each gallery, drawn at random.
        thumbnail_pixels: Longest side of a picture in the page.
        seed: Of the draw.

    Returns:
        Parts for ``ReportData``.

    Raises:
        DataError: If the data have no captions.
    """
    pairs = embed_pairs(encoder, data, options or EmbedOptions(), tokenizer)
    if not pairs.captions:
        raise DataError(f"{data.name}: a gallery needs captions (member .txt), got none")
    gallery = _Gallery(data, pairs, thumbnail_pixels)
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randperm(len(pairs.captions), generator=generator)[:num_queries].tolist()
    images = torch.randperm(len(pairs.keys), generator=generator)[:num_queries].tolist()
    confusion = None
    if classes is not None:
        confusion = _confusion(classes.predict(encoder))
    return Examples(
        text_queries=[gallery.text_query(row) for row in texts],
        image_queries=[gallery.image_query(row) for row in images if gallery.has_caption(row)],
        gallery_note=(
            f"Drawn at random from {data.name} ({len(pairs.keys):,} pictures, seed {seed}); "
            f"none was picked by hand."
        ),
        confusion=confusion,
        similarity=similarity_histogram(pairs),
        health=_health(pairs),
    )


def similarity_histogram(pairs: EmbeddedPairs, num_bins: int = _NUM_BINS) -> SimilarityHistogram:
    """Cosine similarities of matching pairs, and of the others among rows evenly spread.

    Args:
        pairs: Embeddings.
        num_bins: K.
    """
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


class _Gallery:
    """Finds neighbours and makes thumbnails."""

    def __init__(self, data: EvaluationDataset, pairs: EmbeddedPairs, pixels: int) -> None:
        self._data = data
        self._pairs = pairs
        self._pixels = pixels
        self._first_caption: dict[int, str] = {}
        for row, owner in enumerate(pairs.text_to_image.tolist()):
            self._first_caption.setdefault(owner, pairs.captions[row])

    def has_caption(self, row: int) -> bool:
        return row in self._first_caption

    def text_query(self, row: int) -> TextQuery:
        pairs = self._pairs
        owner = int(pairs.text_to_image[row])
        scores = pairs.images @ pairs.texts[row]
        found, values = _best(scores)
        hits = [
            PictureHit(self._picture(other), value, other == owner)
            for other, value in zip(found, values, strict=True)
        ]
        rank = 1 + int((scores > scores[owner]).sum())
        return TextQuery(pairs.captions[row], hits, self._picture(owner), rank)

    def image_query(self, row: int) -> ImageQuery:
        pairs = self._pairs
        scores = pairs.texts @ pairs.images[row]
        own = pairs.text_to_image == row
        found, values = _best(scores)
        hits = [
            CaptionHit(pairs.captions[other], value, bool(own[other]))
            for other, value in zip(found, values, strict=True)
        ]
        right = int(torch.where(own, scores, -torch.inf).argmax())
        rank = 1 + int((scores > scores[right]).sum())
        return ImageQuery(self._picture(row), hits, pairs.captions[right], rank)

    def _picture(self, row: int) -> Picture:
        sample = self._data.sample(row)
        with self._data.blame(sample.key):
            data = thumbnail(sample.image, self._pixels)
        return Picture(data, self._first_caption.get(row, sample.key))


def thumbnail(data: bytes, pixels: int) -> bytes:
    """A small WebP of a picture, at most ``pixels`` on its longest side, on white."""
    picture = open_image(data, DEFAULT_MAX_PIXELS).convert("RGBA")
    picture.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    out = io.BytesIO()
    canvas.convert("RGB").save(out, "WEBP", quality=82, method=6)
    return out.getvalue()


def _best(scores: Float[Tensor, " N"]) -> tuple[list[int], list[float]]:
    values, rows = scores.topk(min(_NUM_HITS, len(scores)))
    return rows.tolist(), values.tolist()


def _confusion(predictions: Predictions) -> Confusion:
    counts: Int64[Tensor, "C C"] = confusion_counts(predictions)
    return Confusion(predictions.class_names, counts.tolist())


def _health(pairs: EmbeddedPairs) -> list[Fact]:
    images, texts = pairs.images, pairs.texts
    width = images.shape[1]
    return [
        Fact(
            "Effective rank of pictures",
            f"{health.effective_rank(images):.0f}",
            f"RankMe: dimensions in use, of {width}",
        ),
        Fact(
            "Effective rank of texts",
            f"{health.effective_rank(texts):.0f}",
            f"RankMe: dimensions in use, of {width}",
        ),
        Fact(
            "Alignment",
            f"{health.alignment(images[pairs.text_to_image], texts):.2f}",
            "mean squared distance of pairs, 0 to 4; lower is closer",
        ),
        Fact(
            "Uniformity of pictures",
            f"{health.uniformity(images):.2f}".replace("-", "\N{MINUS SIGN}"),
            "0 where all are equal; lower is more evenly spread",
        ),
        Fact(
            "Modality gap",
            f"{health.modality_gap(images, texts):.2f}",
            "distance between the centres of pictures and texts, 0 to 2",
        ),
    ]
