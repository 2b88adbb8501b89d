"""Tables of images: captions, classes by number or by name, several rows per image."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clipkit.data.packing.class_numbers import ClassNumbers
from clipkit.data.packing.classes import CLASSES_COLUMNS, Classes, ClassLists
from clipkit.data.packing.labels import (
    CLASS_NAME_COLUMNS,
    LABEL_COLUMNS,
    ColumnKinds,
    RowClass,
    RowClasses,
    Spellings,
    is_missing,
)
from clipkit.errors import DataError

TABLE_SUFFIXES: Final = (".csv", ".tsv", ".parquet")
IMAGE_COLUMNS: Final = ("image", "image_path", "filepath", "file_path", "file", "path", "filename")
CAPTION_COLUMNS: Final = ("caption", "captions", "title", "text", "txt")
_NUMBERED_CAPTION: Final = re.compile(r"(caption|text)[ _-]?\d+")
_CSV_LIMIT: Final = min(sys.maxsize, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Table:
    """Content of a table of images.

    Args:
        samples: Texts by extension of each image, by its name, in order of appearance.
        class_names: Name of each class by its number, empty for a number without a name; empty if
            the table has no names.
        has_own_numbers: Whether class numbers are in the table, not derived from the names.
    """

    samples: Mapping[str, Mapping[str, bytes]]
    class_names: tuple[str, ...]
    has_own_numbers: bool


def read_table(path: Path, class_names: Sequence[str] | None = None) -> Table:
    """Read a table; an image in several rows gets the captions of all of them.

    Classes are numbers (``label``, ``cls``, ``class_id``, ``class_index``, ``class``) or names
    (``class_name``, or names in the others). Numbers in the table are kept; see ``ClassNumbers``
    for names. The caption of an image without captions is the name of its class.

    Several classes per image (``labels``, ``classes``, see ``ClassLists``) are numbered in the
    same way, and are stored as the list ``labels`` in the JSON; their names are the caption.

    Captions are in one column (``caption``, ``text``, ...), as a text or a list, or in numbered
    columns (``caption_0``, ``caption_1``, ...).
    """
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    where = str(path)
    spellings, kinds = Spellings(where), ColumnKinds(where)
    single, several = RowClasses(where, spellings, kinds), ClassLists(where, spellings, kinds)
    first: dict[str, dict[str, Any]] = {}
    captions: dict[str, list[str]] = defaultdict(list)
    own: dict[str, RowClass] = {}
    lists: dict[str, Classes] = {}
    for at, row in enumerate(rows, start=1):
        image = _image(path, row, at)
        first.setdefault(image, row)
        captions[image].extend(_captions(path, row))
        found = single.read(row, at)
        own[image] = own[image].joined(found, f"{path}: {image}") if image in own else found
        if (some := several.read(row, at)) is not None:
            lists[image] = [*lists.get(image, []), *some]
    numbers = ClassNumbers.of(where, list(own.values()), list(lists.values()), class_names)
    samples = {
        image: _texts(row, captions[image], own[image], lists.get(image), numbers)
        for image, row in first.items()
    }
    return Table(samples, numbers.names, numbers.are_given)


def one_line(text: str) -> str:
    """Remove line breaks from a caption, because they separate captions."""
    return " ".join(text.split())


def as_json(value: Mapping[str, Any]) -> bytes:
    """Return JSON whose bytes depend only on the content."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str).encode()


def _image(path: Path, row: Mapping[str, Any], at: int) -> str:
    image = row.get(_column(path, row, IMAGE_COLUMNS, "images"))
    if is_missing(image):
        raise DataError(f"{path}: row {at} names no image")
    return str(image)


def _captions(path: Path, row: Mapping[str, Any]) -> list[str]:
    column = next((name for name in CAPTION_COLUMNS if name in row), None)
    columns = [column] if column else [name for name in row if _NUMBERED_CAPTION.fullmatch(name)]
    of_classes = (*LABEL_COLUMNS, *CLASS_NAME_COLUMNS, *CLASSES_COLUMNS)
    if not columns and any(name in row for name in of_classes):
        return []
    texts: list[Any] = []
    for name in columns or [_column(path, row, CAPTION_COLUMNS, "captions")]:
        texts += row[name] if isinstance(row[name], list) else [row[name]]
    return [one_line(str(text)) for text in texts if not is_missing(text)]


def _texts(
    row: Mapping[str, Any],
    captions: list[str],
    own: RowClass,
    listed: Classes | None,
    numbers: ClassNumbers,
) -> dict[str, bytes]:
    """Return captions, one per line as in CLIP_benchmark; the class; all columns as JSON."""
    label = numbers.of_row(own)
    classes = None if listed is None else numbers.of_list(listed)
    known = [label] if label is not None else classes or []
    captions = captions or [one for one in (numbers.caption(known),) if one]
    if any(column in row for column in CLASSES_COLUMNS):
        row = {**row, "labels": classes}
    texts = {
        "txt": "\n".join(captions).encode(),
        "json": as_json({**row, "captions": captions}),
    }
    return texts if label is None else {**texts, "cls": str(label).encode()}


def _column(path: Path, row: Mapping[str, Any], names: Sequence[str], what: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise DataError(
            f"{path}: no column with {what}: expected one of {', '.join(names)}, got columns "
            f"{', '.join(map(str, row))}"
        )
    return found


def _refuse_twins(path: Path, columns: Sequence[str]) -> None:
    """Refuse two columns of one name: one of them would be lost."""
    for name, count in Counter(columns).items():
        if name and count > 1:
            raise DataError(f"{path}: {count} columns are called {name!r}; rename all but one")


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_CSV_LIMIT)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            _refuse_twins(path, reader.fieldnames or [])
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path}: a row has another number of columns than the header")
                yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a UTF-8 table: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pip install 'clipkit[tables]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            _refuse_twins(path, file.schema_arrow.names)
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (ArrowException, OSError, ValueError, ArithmeticError) as error:
        # Arrow's errors for damaged columns have no common base.
        raise DataError(f"{path}: not a complete Parquet file: {error}") from error
