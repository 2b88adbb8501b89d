"""Columns of a table with images, sounds and captions: recognised, or named by the user."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clipkit.data.packing.classes import CLASSES_COLUMNS
from clipkit.data.packing.labels import CLASS_NAME_COLUMNS, LABEL_COLUMNS, is_missing
from clipkit.errors import DataError
from clipkit.suggestions import did_you_mean

_LOG: Final = logging.getLogger(__name__)

# The second line: COCO, Flickr30k, CIFAR on the Hub, and img2dataset's Parquet.
IMAGE_COLUMNS: Final = (
    "image", "image_path", "filepath", "file_path", "file", "path", "filename",
    "file_name", "image_name", "img", "jpg", "png", "webp",
)  # fmt: skip
SOUND_COLUMNS: Final = (
    "audio", "audio_path", "audio_file", "audio_filename", "sound", "sound_path", "flac", "wav",
    "ogg", "mp3",
)  # fmt: skip
_ANY_FILE: Final = frozenset({"filepath", "file_path", "file", "path", "filename", "file_name"})
"""Columns that are those of the sounds, and not of images, in a table with sounds."""
CAPTION_COLUMNS: Final = ("caption", "captions", "title", "text", "txt")
_CAPTIONS_WITHOUT_CLASSES: Final = (*CAPTION_COLUMNS, "sentences", "comment", "raw")
CLASS_COLUMNS: Final = (*LABEL_COLUMNS, *CLASS_NAME_COLUMNS, *CLASSES_COLUMNS)
ANSWER_COLUMNS: Final = ("answers", "answer")
_LABELLED_TEXTS: Final = {
    "question": (*ANSWER_COLUMNS, "candidates"),
    "hypothesis": CLASS_COLUMNS,
}
"""Columns with a text that has a label only together with the image, and those of the labels."""
_URL_COLUMNS: Final = ("url", "image_url", "coco_url", "img_url")
_NUMBERED_CAPTION: Final = re.compile(r"(caption|text)[ _-]?\d+")
_TEXTS_OF_OBJECTS: Final = ("raw", "caption", "text")
_LISTED: Final = frozenset({"captions", "sentences", "raw"})
STATUS_COLUMN: Final = "status"
_FAILED_DOWNLOADS: Final = frozenset({"failed_to_download", "failed_to_resize"})


@dataclass(frozen=True)
class TableColumns:
    """Columns of a table with images, sounds and captions, if their names are not recognised.

    Args:
        images: Columns with images, as names of files or as bytes. The first is the image of a
            sample; the others are stored as further members, named after their columns, such as
            ``depth.png``. None to recognise one column by its name.
        captions: Columns with captions, each a text or a list of texts. None to recognise them by
            their names.
        sounds: Columns with sounds, as names of files or as bytes; as ``images``. None to recognise
            one column by its name, an empty list for no sounds.

    Examples:
        >>> TableColumns(images=["photo", "depth"], captions=["prompt"]).images
        ['photo', 'depth']
    """

    # Not slotted: jsonargparse reads the defaults of a nested group from an instance's __dict__.
    images: Sequence[str] | None = None
    captions: Sequence[str] | None = None
    sounds: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class UsedColumns:
    """Columns that are read, as the table spells them.

    Args:
        images: Columns with images; the first is the image of a sample.
        sounds: Columns with sounds; the first is the sound of a sample.
        captions: Columns with captions; empty if the table has classes only.
        has_classes: Whether a column contains classes.
        is_sample_per_row: Whether each row is a sample, such as a question about an image, also if
            several rows have the same image.
    """

    images: tuple[str, ...]
    sounds: tuple[str, ...]
    captions: tuple[str, ...]
    has_classes: bool
    is_sample_per_row: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """Columns with images and sounds; rows with the same value in the first are one sample."""
        return (*self.images, *self.sounds)


def used_columns(where: str, names: Sequence[str], options: TableColumns) -> UsedColumns:
    """Find the columns of a table.

    Args:
        where: Name of the table in messages.
        names: All columns of the table.
        options: Columns that the user named.

    Raises:
        DataError: If a column that is needed does not exist.
    """
    has_classes = any(name in names for name in CLASS_COLUMNS)
    if options.sounds is not None:
        sounds = _named(where, "sounds", names, options.sounds)
    else:
        others = [name for name in names if name not in (options.images or ())]
        sounds = tuple(filter(None, [_first(others, SOUND_COLUMNS)]))
    if options.images:
        images = _named(where, "images", names, options.images)
    else:
        images = _image_columns(where, [name for name in names if name not in sounds], sounds)
    labelled = _labelled_text(names)
    if options.captions:
        captions = _named(where, "captions", names, options.captions)
    elif labelled is not None:
        captions = (labelled,)
    else:
        rest = [name for name in names if name not in (*images, *sounds)]
        captions = _caption_columns(where, rest, has_classes)
    return UsedColumns(images, sounds, captions, has_classes, captions == (labelled,))


def _labelled_text(names: Sequence[str]) -> str | None:
    """Return the column of questions or hypotheses; None if the table has none, or no labels."""
    for text, labels in _LABELLED_TEXTS.items():
        if (column := _first(names, [text])) is not None and _first(names, labels) is not None:
            return column
    return None


def _image_columns(where: str, names: Sequence[str], sounds: Sequence[str]) -> tuple[str, ...]:
    """Return the recognised column; a table with sounds may have none."""
    if not sounds:
        return (_recognised(where, names, IMAGE_COLUMNS, "images"),)
    column = _first(names, [name for name in IMAGE_COLUMNS if name not in _ANY_FILE])
    if column is None and (of_any_file := _first(names, IMAGE_COLUMNS)) is not None:
        _LOG.warning(
            "%s: column %r is used for sounds, and column %r is not read; if it has images: "
            "clipkit shards pack --image-columns %s, or TableColumns(images=[%r]) in Python",
            where, sounds[0], of_any_file, of_any_file, of_any_file,
        )  # fmt: skip
    return () if column is None else (column,)


def _caption_columns(where: str, names: Sequence[str], has_classes: bool) -> tuple[str, ...]:
    known = CAPTION_COLUMNS if has_classes else _CAPTIONS_WITHOUT_CLASSES
    if (column := _first(names, known)) is not None:
        return (column,)
    numbered = tuple(name for name in names if _NUMBERED_CAPTION.fullmatch(name))
    if numbered or has_classes:
        return numbered
    return (_recognised(where, names, known, "captions"),)


def captions_in(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Return the captions in a row, each on one line."""
    texts: list[Any] = []
    for name in columns:
        value = _as_list(row[name]) if name.strip().lower() in _LISTED else row[name]
        texts += value if isinstance(value, list) else [value]
    texts = [_text_of(text) for text in texts]
    return [one_line(str(text)) for text in texts if not is_missing(text)]


def member_of(column: str) -> str:
    """Return the first part of the extension under which a further column is stored.

    Examples:
        >>> member_of("Depth map")
        'depth_map'
    """
    return re.sub(r"[^a-z0-9_-]+", "_", column.strip().lower())


def is_failed_download(row: Mapping[str, Any]) -> bool:
    """Return whether img2dataset recorded that it has no image for this row."""
    return row.get(STATUS_COLUMN) in _FAILED_DOWNLOADS


def one_line(text: str) -> str:
    """Remove line breaks from a caption, because they separate captions."""
    return " ".join(text.split())


def _text_of(value: Any) -> Any:
    """Return the text in an object of COCO's or Flickr30k's sentences."""
    if not isinstance(value, dict):
        return value
    return next((value[name] for name in _TEXTS_OF_OBJECTS if name in value), None)


def _as_list(value: Any) -> Any:
    """Parse a JSON list in a cell, as in Flickr30k's annotations."""
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the first of the wanted columns; case and blanks matter only if several match."""
    exact = next((name for name in wanted if name in names), None)
    if exact is not None:
        return exact
    loose = {name.strip().lower(): name for name in reversed(names)}
    return next((loose[name] for name in wanted if name in loose), None)


def _named(where: str, option: str, names: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    for name in wanted:
        if name not in names:
            raise DataError(
                f"{where}: columns.{option}: no column {name!r}{did_you_mean(name, names)}; got "
                f"columns {', '.join(names)}"
            )
    return tuple(wanted)


def _recognised(where: str, names: Sequence[str], known: Sequence[str], what: str) -> str:
    column = _first(names, known)
    if column is not None:
        return column
    hints = {name: did_you_mean(name, known) for name in names}
    hint = next((f"; {name!r}:{close[1:]}" for name, close in hints.items() if close), "")
    if what == "images" and (urls := _first(names, _URL_COLUMNS)) is not None:
        hint = (
            f"; column {urls!r} contains addresses, which are not downloaded here: use img2dataset "
            f"on this table, and its output as the source"
        )
    raise DataError(
        f"{where}: no column with {what}: expected one of {', '.join(known)}, got columns "
        f"{', '.join(map(str, names))}{hint}; or name it: clipkit shards pack "
        f"--{what[:-1]}-columns NAME, data.storage.columns.{what} for fit, or "
        f"columns=TableColumns({what}=[NAME]) in Python"
    )
