"""Tables of pictures: captions, classes by number or by name, several rows a picture."""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clipkit.data.packing_classes import (
    CLASSES_COLUMNS,
    Classes,
    names_among,
    numbered,
    several_classes,
)
from clipkit.errors import DataError

TABLE_SUFFIXES: Final = (".csv", ".tsv", ".parquet")
IMAGE_COLUMNS: Final = ("image", "image_path", "filepath", "file_path", "file", "path", "filename")
CAPTION_COLUMNS: Final = ("caption", "captions", "title", "text", "txt")
LABEL_COLUMNS: Final = ("label", "cls", "class_id", "class_index")
CLASS_NAME_COLUMNS: Final = ("class_name", "class")
_CSV_LIMIT: Final = min(sys.maxsize, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Table:
    """What a table says about its pictures.

    Args:
        samples: Name of the picture -> its texts by extension, in order of appearance.
        class_names: In the order of their numbers; none where the table has no names.
    """

    samples: Mapping[str, Mapping[str, bytes]]
    class_names: tuple[str, ...]


def read_table(path: Path, class_names: Sequence[str] | None = None) -> Table:
    """Read a table; a picture that stands in several rows gets the captions of all of them.

    Classes may be numbers (``label``, ``cls``, ``class_id``, ``class_index``) or words
    (``class_name``, ``class``, or words in ``label``). Words are numbered as ``class_names`` says,
    else by the table's own numbers beside them, else in alphabetical order. A picture without
    caption gets its class's name as caption.

    Several classes a picture (``labels``, ``classes``, see ``several_classes``) are numbered in the
    same way, and stand as the list ``labels`` in the JSON; their names make the caption.

    Args:
        path: A CSV, TSV or Parquet file.
        class_names: Names of the classes in the order of their numbers.

    Raises:
        DataError: The file cannot be read, lacks a column, or names a class that has no number.
    """
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    first: dict[str, dict[str, Any]] = {}
    captions: dict[str, list[str]] = defaultdict(list)
    classes: dict[str, Classes] = {}
    for row in rows:
        image = str(row.get(_column(path, row, IMAGE_COLUMNS, "pictures")))
        first.setdefault(image, row)
        captions[image].extend(_captions(path, row))
        if (some := several_classes(path, row)) is not None:
            classes[image] = [*classes.get(image, []), *some]
    names = {image: _class_name(row) for image, row in first.items()}
    words = {name: _number(first[image]) for image, name in names.items() if name is not None}
    words = {**dict.fromkeys(names_among(list(classes.values()))), **words}
    known = list(class_names) if class_names and (words or classes) else _in_order(words)
    numbers = class_numbers(list(words), known, str(path))
    samples = {
        image: _texts(row, captions[image], names[image], classes.get(image), numbers)
        for image, row in first.items()
    }
    return Table(samples, tuple(known))


def class_numbers(names: Sequence[str], known: Sequence[str], where: str) -> dict[str, int]:
    """The number of each class.

    Args:
        names: Names that occur.
        known: All names, in the order of their numbers.
        where: What the message calls the source.

    Raises:
        DataError: If a name that occurs is not known.
    """
    numbers = {name: number for number, name in enumerate(known)}
    if unknown := [name for name in names if name not in numbers]:
        raise DataError(
            f"{where}: class {unknown[0]!r} is not among the {len(known)} known classes "
            f"({', '.join(list(known)[:8])}{', ...' if len(known) > 8 else ''})"
        )
    return numbers


def one_line(text: str) -> str:
    """A caption without line breaks, which separate captions."""
    return " ".join(text.split())


def as_json(value: Mapping[str, Any]) -> bytes:
    """JSON whose bytes depend on the content alone."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str).encode()


def _captions(path: Path, row: Mapping[str, Any]) -> list[str]:
    column = next((name for name in CAPTION_COLUMNS if name in row), None)
    of_classes = (*LABEL_COLUMNS, *CLASS_NAME_COLUMNS, *CLASSES_COLUMNS)
    if column is None and any(name in row for name in of_classes):
        return []
    found = row[column or _column(path, row, CAPTION_COLUMNS, "captions")]
    return [one_line(str(t)) for t in (found if isinstance(found, list) else [found]) if t]


def _class_name(row: Mapping[str, Any]) -> str | None:
    """The class as a word, with spaces for underscores; None where it is a number or absent."""
    words = [row[name] for name in (*CLASS_NAME_COLUMNS, *LABEL_COLUMNS) if row.get(name)]
    names = [word for word in words if isinstance(word, str) and not _is_whole(word)]
    return one_line(names[0].replace("_", " ")) if names else None


def _number(row: Mapping[str, Any]) -> str | None:
    values = [str(row[name]) for name in LABEL_COLUMNS if row.get(name) not in (None, "")]
    return next((value for value in values if _is_whole(value)), values[0] if values else None)


def _in_order(words: Mapping[str, str | None]) -> list[str]:
    """Names by the numbers beside them, if those are 0 to C - 1; else by name."""
    by_number = {number: name for name, number in words.items()}
    numbers = [str(number) for number in range(len(words))]
    if all(number in by_number for number in numbers):
        return [by_number[number] for number in numbers]
    return sorted(words)


def _is_whole(text: str) -> bool:
    return text.strip().lstrip("+-").isdigit()


def _texts(
    row: Mapping[str, Any],
    captions: list[str],
    name: str | None,
    classes: Classes | None,
    numbers: Mapping[str, int],
) -> dict[str, bytes]:
    """Captions one a line, as CLIP_benchmark has them; the class; all columns as JSON."""
    label = _number(row) if name is None else str(numbers[name])
    listed = sorted(names_among([classes or []]), key=numbers.__getitem__)
    captions = captions or [one for one in (name or ", ".join(listed),) if one]
    if any(column in row for column in CLASSES_COLUMNS):
        row = {**row, "labels": None if classes is None else numbered(classes, numbers)}
    texts = {
        "txt": "\n".join(captions).encode(),
        "json": as_json({**row, "captions": captions}),
    }
    return texts if label is None else {**texts, "cls": label.encode()}


def _column(path: Path, row: Mapping[str, Any], names: Sequence[str], what: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise DataError(
            f"{path}: no column with {what}: expected one of {', '.join(names)}, got columns "
            f"{', '.join(map(str, row))}"
        )
    return found


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_CSV_LIMIT)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file, delimiter=delimiter, strict=True):
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
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (ArrowException, OSError, ValueError, ArithmeticError) as error:
        # What Arrow raises over damaged columns has no common base.
        raise DataError(f"{path}: not a whole Parquet file: {error}") from error
