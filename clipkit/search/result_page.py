"""Write results of a search as a page with images and players, which needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from clipkit.atomic_files import write_text
from clipkit.collection import Collection, CollectionFiles, CollectionImages
from clipkit.data.audio.previews import sound_preview
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.report.content import Thumbnail
from clipkit.evaluation.report.rendering import render
from clipkit.search.records import cut_text
from clipkit.search.thumbnails import small_jpeg

MAX_SOUNDS: Final = 100
"""Sounds of a page."""
_MAX_SOUND_BYTES: Final = 100_000
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
    image: Thumbnail | None
    score: str
    caption: str
    key: str
    class_name: str
    row: int
    size: str
    sounds: Sequence[Thumbnail]


def write_result_page(
    path: Path, collection: Collection, groups: Sequence[ResultGroup], title: str, explanation: str
) -> None:
    """Write the page: a thumbnail of each image, with score, caption, key and size.

    Of more than 500 images, the further ones are counted. An image that cannot be read has a cross.
    In a collection with sounds, the first 100 have a player for their first ten seconds; a sample
    that has a sound needs no image. Further sounds, and those that cannot be read, are counted.

    Args:
        path: The page.
        collection: The collection.
        groups: The results.
        title: Title of the page.
        explanation: What the images are.
    """
    images, left, shown = CollectionImages(collection), MAX_IMAGES, []
    sounds, sounds_left = _Sounds(collection), MAX_SOUNDS
    num_unreadable = num_silent = 0
    for group in groups:
        cards = []
        for record in group.records[:left]:
            players = sounds.of(record) if sounds_left else []
            sounds_left -= bool(players)
            num_silent += sounds.has(record) and not players
            cards.append(_card(images, record, players, sounds.has(record)))
        left -= len(cards)
        num_unreadable += sum(card.image is _MISSING for card in cards)
        num_more = len(group.records) - len(cards)
        shown.append({"title": group.title, "cards": cards, "num_more": num_more})
    context = {
        "title": title,
        "title_of_results": "Results" if collection.info.modalities else "Images",
        "subtitle": f"{collection.folder}, {len(collection):,} samples",
        "explanation": explanation,
        "groups": shown,
        "num_unreadable": num_unreadable,
        "num_silent": num_silent,
    }
    write_text(path, render("search.html", context))


@final
class _Sounds:
    """Reads the sounds of rows as short copies."""

    def __init__(self, collection: Collection) -> None:
        self._files = {
            name: CollectionFiles(collection, name) for name in collection.info.modalities
        }

    def has(self, record: Mapping[str, Any]) -> bool:
        """Return whether a row has a sound, also one that cannot be read."""
        return any(record.get(f"{name}_type") is not None for name in self._files)

    def of(self, record: Mapping[str, Any]) -> list[Thumbnail]:
        """Return the sounds of a row; none that cannot be read, or without the packages for it."""
        found = []
        for name, files in self._files.items():
            if record.get(f"{name}_type") is None:
                continue
            with suppress(DataError, ConfigError):
                content = files.read(record["row"])
                copy, media_type = sound_preview(content, max_bytes=_MAX_SOUND_BYTES)
                found.append(Thumbnail(copy, f"{name} of {record['key']}", media_type))
        return found[:1]  # towers for sounds read the same file


def _card(
    images: CollectionImages,
    record: Mapping[str, Any],
    sounds: Sequence[Thumbnail],
    has_sound: bool,
) -> _Card:
    caption = cut_text(next(iter(record["captions"] or ()), ""))
    width, height = record["width_pixels"], record["height_pixels"]
    return _Card(
        image=_image(images, record, caption or record["key"], has_sound=has_sound),
        score=f"{record['score']:.4f}",
        caption=caption,
        key=record["key"],
        class_name=record["class_name"] or "",
        row=record["row"],
        size="" if width is None or height is None else f"{width} x {height}",
        sounds=sounds,
    )


def _image(
    images: CollectionImages, record: Mapping[str, Any], caption: str, has_sound: bool
) -> Thumbnail | None:
    """Return the thumbnail of a row; None for a sound without an image."""
    if has_sound and record["image_type"] is None:
        return None
    try:
        content = small_jpeg(images.read(record["row"]), _SIZE_PIXELS)
        return Thumbnail(content, caption, "image/jpeg")
    except DataError:
        return _MISSING
