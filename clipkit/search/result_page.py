"""Write results of a search as a page with the images, which needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import write_text
from clipkit.collection import Collection, CollectionImages
from clipkit.errors import DataError
from clipkit.evaluation.report.content import Thumbnail
from clipkit.evaluation.report.rendering import render
from clipkit.search.records import cut_text
from clipkit.search.thumbnails import small_jpeg

MAX_IMAGES: Final = 500
"""Images of a page, of some kilobytes each."""
_SIZE_PIXELS: Final = 192
_MISSING: Final = Thumbnail(
    b"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'><rect width='24' height='24' "
    b"fill='#ddd'/><path d='m8 8 8 8m0-8-8 8' stroke='#777'/></svg>",
    "image cannot be read",
    "image/svg+xml",
)


@dataclass(frozen=True, slots=True)
class ResultGroup:
    """Results below one title.

    Args:
        title: Title; "" for none.
        records: Records of the rows, with ``row`` and ``score``; see ``Searcher.records``.
    """

    title: str
    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Card:
    image: Thumbnail
    score: str
    caption: str
    key: str
    class_name: str
    row: int
    size: str


def write_result_page(
    path: Path, collection: Collection, groups: Sequence[ResultGroup], title: str, explanation: str
) -> None:
    """Write the page: a thumbnail of each image, with score, caption, key and size.

    Of more than 500 images, the further ones are counted. An image that cannot be read has a cross.

    Args:
        path: The page.
        collection: The collection.
        groups: The results.
        title: Title of the page.
        explanation: What the images are.
    """
    images, left, shown = CollectionImages(collection), MAX_IMAGES, []
    num_unreadable = 0
    for group in groups:
        cards = [_card(images, record) for record in group.records[:left]]
        left -= len(cards)
        num_unreadable += sum(card.image is _MISSING for card in cards)
        num_more = len(group.records) - len(cards)
        shown.append({"title": group.title, "cards": cards, "num_more": num_more})
    context = {
        "title": title,
        "subtitle": f"{collection.folder}, {len(collection):,} images",
        "explanation": explanation,
        "groups": shown,
        "num_unreadable": num_unreadable,
    }
    write_text(path, render("search.html", context))


def _card(images: CollectionImages, record: Mapping[str, Any]) -> _Card:
    caption = cut_text(next(iter(record["captions"] or ()), ""))
    width, height = record["width_pixels"], record["height_pixels"]
    return _Card(
        image=_thumbnail(images, record["row"], caption or record["key"]),
        score=f"{record['score']:.4f}",
        caption=caption,
        key=record["key"],
        class_name=record["class_name"] or "",
        row=record["row"],
        size="" if width is None or height is None else f"{width} x {height}",
    )


def _thumbnail(images: CollectionImages, row: int, caption: str) -> Thumbnail:
    try:
        return Thumbnail(small_jpeg(images.read(row), _SIZE_PIXELS), caption, "image/jpeg")
    except DataError:
        return _MISSING
