"""Why a model matches an image and a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipkit.evaluation.report.content.images import Thumbnail


@dataclass(frozen=True, slots=True)
class Explanation:
    """Parts of an image and of a text that carry their match.

    Args:
        image: The image.
        overlay: The image with its heat map.
        words: Words of the text in their order, with their weights from -1 (speaks against the
            match) to 1 (speaks for it).
        similarity: Cosine similarity of image and text.
        note: Method, and how well it agrees with occlusion.
    """

    image: Thumbnail
    overlay: Thumbnail
    words: Sequence[tuple[str, float]]
    similarity: float
    note: str = ""
