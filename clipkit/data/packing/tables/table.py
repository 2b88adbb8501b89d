"""Tables of images: captions, classes by number or by name, several rows per image."""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final, overload

import numpy as np

from clipkit.data.packing.class_numbers import ClassNumbers
from clipkit.data.packing.classes import CLASSES_COLUMNS, Classes, ClassLists
from clipkit.data.packing.images import member_extension
from clipkit.data.packing.items import Item, read_image_file, state_of
from clipkit.data.packing.labels import ColumnKinds, RowClass, RowClasses, Spellings, is_missing
from clipkit.data.packing.tables.columns import (
    TableColumns,
    captions_in,
    is_failed_download,
    member_of,
    used_columns,
)
from clipkit.data.packing.tables.row_files import TableRows
from clipkit.data.packing.tables.spool import RowGroups, RowSpool, name_hash
from clipkit.errors import DataError, SampleError

_LOG: Final = logging.getLogger(__name__)
_NO_CLASS: Final = RowClass(None, None, 0)
Record = tuple[int, int, dict[str, Any]]
"""Number of the part, number of the row in messages, and values by column."""


@final
class Table(Sequence["TableItem"]):
    """Images of a table with all their captions, in order of appearance.

    An image in several rows gets the captions of all of them. An image whose bytes are in the
    table is a sample for itself. Rows are kept in a temporary file, not in memory.

    Classes are numbers (``label``, ``cls``, ``class_id``, ``class_index``, ``class``) or names
    (``class_name``, or names in the others). Numbers in the table are kept; see ``ClassNumbers``
    for names. The caption of an image without captions is the name of its class.

    Several classes per image (``labels``, ``classes``, see ``ClassLists``) are numbered in the
    same way, and are stored as the list ``labels`` in the JSON; their names are the caption.

    Args:
        parts: Files of the table, in order; all have the same columns.
        root: Folder that names of images are relative to.
        class_names: Names in the order of class numbers; None for the numbers of the table.
        columns: Columns that the user named.

    Attributes:
        class_names: Name of each class by its number, empty for a number without a name; empty if
            the table has no names.
        has_own_numbers: Whether class numbers are in the table, not derived from the names.

    Raises:
        DataError: If the table is damaged, lacks a column, or contradicts itself.
    """

    def __init__(
        self,
        parts: Sequence[TableRows],
        root: Path,
        class_names: Sequence[str] | None = None,
        columns: TableColumns = TableColumns(),
    ) -> None:
        self.root = root
        self.parts = tuple(parts)
        where = parts[0].where
        self.columns = used_columns(where, parts[0].columns, columns)
        self._where = where
        spellings, kinds = Spellings(where), ColumnKinds(where)
        self._single = RowClasses(where, spellings, kinds)
        self._several = ClassLists(where, spellings, kinds)
        self._rows = RowSpool()
        self._groups = RowGroups(self._read())
        self._numbers = self._number_classes(class_names)
        self.class_names = self._numbers.names
        self.has_own_numbers = self._numbers.are_given

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, number: int) -> TableItem: ...

    @overload
    def __getitem__(self, number: slice) -> list[TableItem]: ...

    def __getitem__(self, number: int | slice) -> TableItem | list[TableItem]:
        numbers = range(len(self))[number]
        if isinstance(numbers, int):
            return TableItem(self, numbers)
        return [TableItem(self, each) for each in numbers]

    def records(self, number: int) -> list[Record]:
        """Return the rows of an image."""
        return [tuple(self._rows.read(row)) for row in self._groups.rows(number)]

    def texts(self, records: Sequence[Record]) -> dict[str, bytes]:
        """Return captions, one per line as in CLIP_benchmark; the class; all columns as JSON."""
        row = {name: _named(value) for name, value in records[0][2].items()}
        captions = [text for _, _, r in records for text in captions_in(r, self.columns.captions)]
        own, listed = self._classes(records)
        label = self._numbers.of_row(own)
        classes = None if listed is None else self._numbers.of_list(listed)
        numbers = [label] if label is not None else classes or []
        captions = captions or [name for name in (self._numbers.caption(numbers),) if name]
        if any(column in row for column in CLASSES_COLUMNS):
            row = {**row, "labels": classes}
        texts = {
            "txt": "\n".join(captions).encode(),
            "json": as_json({**row, "captions": captions}),
        }
        return texts if label is None else {**texts, "cls": str(label).encode()}

    def _read(self) -> np.ndarray:
        """Store all rows, and return the hashes of their images."""
        hashes = array("Q")
        num_failed = 0
        for number, part in enumerate(self.parts):
            if part.columns != self.parts[0].columns:
                raise DataError(
                    f"{part.where}: expected the columns of {self._where} "
                    f"({', '.join(self.parts[0].columns)}), got {', '.join(part.columns)}"
                )
            for at, row in enumerate(part.rows(self.columns.images), start=1):
                name = row[self.columns.images[0]]
                if is_missing(name) and is_failed_download(row):
                    num_failed += 1
                    continue
                self._check(part, at, row)
                hashes.append(name_hash(f"{number} {at}" if isinstance(name, dict) else str(name)))
                self._rows.append((number, at, row))
        self._rows.close_writing()
        if num_failed:
            _LOG.warning("%s: skipped %d rows of failed downloads", self._where, num_failed)
        return np.frombuffer(hashes, dtype=np.uint64)

    def _check(self, part: TableRows, at: int, row: Mapping[str, Any]) -> None:
        if is_missing(row[self.columns.images[0]]):
            raise DataError(f"{part.where}: row {at} names no image")
        if self.columns.has_classes:
            self._single.read(row, at)
            self._several.read(row, at)

    def _number_classes(self, class_names: Sequence[str] | None) -> ClassNumbers:
        """Assign numbers to the classes of all images."""
        rows: dict[tuple[int | None, str | None], RowClass] = {}
        names: dict[str, None] = {}
        numbers: dict[int, None] = {}
        if self.columns.has_classes:
            for item in range(len(self)):
                own, listed = self._classes(self.records(item))
                rows.setdefault((own.number, own.name), own)
                for each in listed or []:
                    if isinstance(each, int):
                        numbers[each] = None
                    else:
                        names[each] = None
        lists: list[Classes] = [list(numbers), list(names)]
        return ClassNumbers.of(self._where, list(rows.values()), lists, class_names)

    def _classes(self, records: Sequence[Record]) -> tuple[RowClass, Classes | None]:
        """Return the class of an image, and its list of classes."""
        if not self.columns.has_classes:
            return _NO_CLASS, None
        own: RowClass | None = None
        lists: list[Any] = []
        listed = False
        for number, at, row in records:
            found = self._single.read(row, at)
            name = row[self.columns.images[0]]
            where = f"{self.parts[number].where}: {_named(name)}"
            own = found if own is None else own.joined(found, where)
            some = self._several.read(row, at)
            listed = listed or some is not None
            lists += some or []
        return own or _NO_CLASS, lists if listed else None


@final
@dataclass(frozen=True, slots=True)
class TableItem(Item):
    """An image of a table, in a file or in the table itself."""

    table: Table
    number: int

    @property
    def identity(self) -> str:
        """See ``Item.identity``."""
        records = self.table.records(self.number)
        states = [
            f"{image} {state_of(image)}" if isinstance(image, Path) else image.identity
            for image in self._images(records).values()
        ]
        return f"{' '.join(states)} {sorted(self.table.texts(records).items())}"

    @property
    def key(self) -> None:
        """See ``Item.key``."""
        return None

    @property
    def files(self) -> tuple[Path, ...]:
        """See ``Item.files``."""
        images = self._images(self.table.records(self.number)).values()
        return tuple(image for image in images if isinstance(image, Path))

    def members(self) -> dict[str, bytes]:
        """See ``Item.members``."""
        records = self.table.records(self.number)
        members: dict[str, bytes] = {}
        for column, image in self._images(records).items():
            if isinstance(image, Path):
                data, path = read_image_file(image), image
            else:
                data, path = image.read(), Path(image.path or image.key)
            extension = member_extension(path, data)
            if column != self.table.columns.images[0]:
                extension = f"{member_of(column)}.{extension}"
            members[extension] = data
        return {**members, **self.table.texts(records)}

    def texts(self) -> Mapping[str, bytes]:
        """See ``Item.texts``."""
        return self.table.texts(self.table.records(self.number))

    def _images(self, records: Sequence[Record]) -> dict[str, Path | _StoredImage]:
        """Return the images of the first row by column; empty cells are left out."""
        number, _, row = records[0]
        part = self.table.parts[number]
        images: dict[str, Path | _StoredImage] = {}
        for column in self.table.columns.images:
            cell = row[column]
            if isinstance(cell, dict):
                images[column] = _StoredImage(part, column, cell["row"], cell["path"] or "")
            elif not is_missing(cell):
                images[column] = self.table.root / str(cell)
        return images


@final
@dataclass(frozen=True, slots=True)
class _StoredImage:
    """An image whose bytes are in the table; ``path`` is the previous name of its file."""

    part: TableRows
    column: str
    row: int
    path: str

    @property
    def identity(self) -> str:
        """Text that changes if the bytes change."""
        return self.part.identity(self.column, self.row)

    @property
    def key(self) -> str:
        """Name of the row in messages."""
        return f"{self.part.where}: row {self.row + 1}"

    def read(self) -> bytes:
        """Return the bytes."""
        data = self.part.image(self.column, self.row)
        if not data:
            raise SampleError(f"column {self.column}: no bytes", key=self.key)
        return data


def as_json(value: Mapping[str, Any]) -> bytes:
    """Return JSON whose bytes depend only on the content."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str).encode()


def _named(value: Any) -> Any:
    """Return the name of an image in the table instead of its position."""
    return value["path"] if isinstance(value, dict) and value.keys() == {"row", "path"} else value
