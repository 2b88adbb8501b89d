"""Cards of samples: a thumbnail, the key, the caption and a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np

from clipkit.collection import Collection, CollectionImages
from clipkit.curation.filter_page.evidence import ShownRow
from clipkit.curation.thumbnails import CollectionThumbnails
from clipkit.evaluation.report.content import Thumbnail

_THUMBNAIL_PIXELS: Final = 160
_LONGEST_CAPTION: Final = 160
_COLUMNS: Final = ("key", "captions", "width_pixels", "height_pixels")


@dataclass(frozen=True, slots=True)
class Card:
    """A sample on the page.

    Args:
        image: Its image.
        key: Its key.
        caption: Its first caption; "" if it has none.
        num_more: Number of further captions.
        size: Width and height of the image; "" if they are unknown.
        value: What was measured; "" for nothing.
    """

    image: Thumbnail
    key: str
    caption: str
    num_more: int
    size: str
    value: str = ""


@final
class Cards:
    """Cards of rows of a collection, read in the order of the files.

    Args:
        collection: The collection.
        images: Its image files.
        rows: The rows.
        on_image: Called after each image.

    Attributes:
        num_unreadable: Number of images that could not be read.
    """

    def __init__(
        self,
        collection: Collection,
        images: CollectionImages,
        rows: Iterable[int],
        on_image: Callable[[], None],
    ) -> None:
        wanted = sorted(rows)
        table = collection.table(_COLUMNS, np.array(wanted, dtype=np.int64)).to_pylist()
        records = dict(zip(wanted, table, strict=True))
        captions = {row: _captions(record) for row, record in records.items()}
        thumbnails = CollectionThumbnails(images, captions, _THUMBNAIL_PIXELS)
        self._cards: dict[int, Card] = {}
        for row, record in records.items():
            self._cards[row] = _card(record, captions[row], thumbnails[row])
            on_image()
        self.num_unreadable = thumbnails.num_unreadable

    def __getitem__(self, shown: ShownRow) -> Card:
        """Return the card of a row, with its value."""
        value = "" if np.isnan(shown.value) else f"{shown.value:.4g}"
        return replace(self._cards[shown.row], value=value)


def _card(record: dict[str, Any], captions: Sequence[str], image: Thumbnail) -> Card:
    width, height = record["width_pixels"], record["height_pixels"]
    size = "" if width is None or height is None else f"{width} × {height}"
    return Card(image, record["key"], next(iter(captions), ""), max(0, len(captions) - 1), size)


def _captions(record: dict[str, Any]) -> list[str]:
    texts = [text for text in record["captions"] or () if text is not None]
    return [
        text if len(text) <= _LONGEST_CAPTION else f"{text[:_LONGEST_CAPTION]}…" for text in texts
    ]
