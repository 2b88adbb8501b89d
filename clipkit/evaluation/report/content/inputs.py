"""Retrieval between any two modalities: queries and hits that are images, texts or sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipkit.evaluation.report.content.images import Thumbnail


@dataclass(frozen=True, slots=True)
class SoundClip:
    """A short sound inside the page.

    Args:
        data: Bytes of a sound file; empty if the page has too many sounds.
        media_type: Media type of ``data``.
        spectrogram: Image of what the tower reads.
        caption: Description of the sound.
    """

    data: bytes
    media_type: str
    spectrogram: Thumbnail
    caption: str


@dataclass(frozen=True, slots=True)
class ShownInput:
    """An image, a text or a sound of a sample.

    Args:
        text: The text; of other modalities, their description.
        image: The image; None for other modalities.
        sound: The sound; None for other modalities.
    """

    text: str
    image: Thumbnail | None = None
    sound: SoundClip | None = None


@dataclass(frozen=True, slots=True)
class InputHit:
    """A candidate retrieved for a query.

    Args:
        input: The candidate.
        similarity: Cosine similarity of query and candidate.
        is_match: True if they belong together.
    """

    input: ShownInput
    similarity: float
    is_match: bool


@dataclass(frozen=True, slots=True)
class InputQuery:
    """A query and the candidates that were retrieved for it.

    Args:
        input: The query.
        hits: Most similar candidates, most similar first.
        answer: Most similar candidate among those that belong to the query.
        rank: Rank of ``answer`` among all candidates, from 1.
    """

    input: ShownInput
    hits: Sequence[InputHit]
    answer: ShownInput
    rank: int


@dataclass(frozen=True, slots=True)
class ModalityGallery:
    """Examples of retrieval from one modality to another.

    Args:
        title: The two modalities, such as "Sound to text".
        queries: Queries that were selected at random.
    """

    title: str
    queries: Sequence[InputQuery]
