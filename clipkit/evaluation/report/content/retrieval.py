"""What a model retrieves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipkit.evaluation.report.content.images import Thumbnail


@dataclass(frozen=True, slots=True)
class ImageHit:
    """An image retrieved for a text.

    Args:
        image: Retrieved image.
        similarity: Cosine similarity of text and image.
        is_match: True if text and image belong together.
    """

    image: Thumbnail
    similarity: float
    is_match: bool


@dataclass(frozen=True, slots=True)
class CaptionHit:
    """A caption retrieved for an image.

    Args:
        caption: Retrieved caption.
        similarity: Cosine similarity of image and caption.
        is_match: True if image and caption belong together.
    """

    caption: str
    similarity: float
    is_match: bool


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A text and the images that were retrieved for it.

    Args:
        text: Text used as query.
        hits: Most similar images, most similar first.
        answer: Image that belongs to the text.
        rank: Rank of ``answer`` among all images, from 1.
    """

    text: str
    hits: Sequence[ImageHit]
    answer: Thumbnail
    rank: int


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """An image and the captions that were retrieved for it.

    Args:
        image: Image used as query.
        hits: Most similar captions, most similar first.
        answer: Most similar caption among those that belong to the image.
        rank: Rank of ``answer`` among all captions, from 1.
    """

    image: Thumbnail
    hits: Sequence[CaptionHit]
    answer: str
    rank: int


@dataclass(frozen=True, slots=True)
class Gallery:
    """Examples of retrieval.

    Args:
        text_queries: Texts with retrieved images.
        image_queries: Images with retrieved captions.
        note: How the examples were selected.
    """

    text_queries: Sequence[TextQuery] = ()
    image_queries: Sequence[ImageQuery] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class RecallCurve:
    """Recall at every number of considered candidates, in one direction.

    Args:
        direction: What is looked for, such as "Text to image".
        points: Points (k, recall at k) with increasing k.
        num_queries: Number of queries.
        num_candidates: Number of candidates.
        median_rank: Median of the ranks of the right answers, from 1.
        mean_rank: Mean of the ranks of the right answers.
    """

    direction: str
    points: Sequence[tuple[int, float]]
    num_queries: int
    num_candidates: int
    median_rank: float
    mean_rank: float
