"""Why a model matches an image, or a sound, and a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipkit.evaluation.report.content.images import Thumbnail


@dataclass(frozen=True, slots=True)
class Explanation:
    """Parts of an image or a sound, and of a text, that carry their match.

    Args:
        image: The image, or the spectrogram of the sound.
        overlay: The same with its heat map.
        words: Words of the text in their order, with their weights from -1 (speaks against the
            match) to 1 (speaks for it).
        similarity: Cosine similarity of both.
        note: Method, and how well it agrees with occlusion.
        sound: The sound, as a file that browsers play; None for an image.
        measure: Name of ``similarity``, which may be another measure of the match.
        parts: Words with a heat map of their own.
    """

    image: Thumbnail
    overlay: Thumbnail
    words: Sequence[tuple[str, float]]
    similarity: float
    note: str = ""
    sound: Thumbnail | None = None
    measure: str = "Similarity"
    parts: Sequence[tuple[str, Thumbnail]] = ()
