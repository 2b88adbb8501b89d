"""Tables of images: captions, classes by number or by name, several rows per image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final, overload

from clipkit.data.audio.formats import SOUND_EXTENSIONS
from clipkit.data.packing.images import member_extension
from clipkit.data.packing.items import Item, read_file, state_of
from clipkit.data.packing.labels import is_missing
from clipkit.data.packing.tables.columns import TableColumns, captions_in, member_of
from clipkit.data.packing.tables.row_files import TableRows
from clipkit.data.packing.tables.spool import RowSpool
from clipkit.data.packing.tables.survey import Record, TableSurvey, has_lists, shown_name
from clipkit.errors import SampleError


@final
class Table(Sequence["TableItem"]):
    """Images of a table with all their captions, in order of appearance.

    An image in several rows gets the captions of all of them. An image whose bytes are in the
    table is a sample for itself. Rows are kept in a temporary file, not in memory.

    Classes are numbers (``label``, ``cls``, ``class_id``, ``class_index``, ``class``) or names
    (``class_name``, or names in the others). Numbers in the table are kept; see ``ClassNumbers``
    for names. The caption of an image without captions is the name of its class.

    Questions with answers, and hypotheses with classes, are a sample per row: the text is the
    caption, and answers stay in the JSON.

    Several classes per image (``labels``, ``classes``, see ``ClassLists``) are numbered in the
    same way, and are stored as the list ``labels`` in the JSON; their names are the caption.

    Args:
        survey: The images and classes of the complete table.
        root: Folder that names of images are relative to.
        rows: The rows of all images, or of those that are read.

    Attributes:
        class_names: Name of each class by its number, empty for a number without a name; empty if
            the table has no names.
        has_own_numbers: Whether class numbers are in the table, not derived from the names.
    """

    def __init__(self, survey: TableSurvey, root: Path, rows: RowSpool) -> None:
        self.root = root
        self.parts = survey.parts
        self.columns = survey.columns
        self._survey = survey
        self._rows = rows
        self._numbers = survey.numbers
        self.class_names = survey.numbers.names
        self.has_own_numbers = survey.numbers.are_given

    @classmethod
    def of(
        cls,
        parts: Sequence[TableRows],
        root: Path,
        class_names: Sequence[str] | None = None,
        columns: TableColumns = TableColumns(),
    ) -> Self:
        """Read a complete table.

        Args:
            parts: Files of the table, in order; all have the same columns.
            root: Folder that names of images are relative to.
            class_names: Names in the order of class numbers; None for the numbers of the table.
            columns: Columns that the user named.

        Raises:
            DataError: If the table is damaged, lacks a column, or contradicts itself.
        """
        rows = RowSpool()
        return cls(TableSurvey(parts, class_names, columns, rows), root, rows)

    @classmethod
    def of_images(cls, survey: TableSurvey, root: Path, images: range) -> Self:
        """Read the rows of consecutive images only; no other image of the table can be read.

        Args:
            survey: The complete table.
            root: Folder that names of images are relative to.
            images: Numbers of the images.
        """
        return cls(survey, root, survey.spool(survey.groups.rows_of(images)))

    def __len__(self) -> int:
        return len(self._survey.groups)

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
        return [tuple(self._rows.read(row)) for row in self._survey.groups.rows(number)]

    def texts(self, records: Sequence[Record]) -> dict[str, bytes]:
        """Return captions, one per line as in CLIP_benchmark; the class; all columns as JSON."""
        row = {name: shown_name(value) for name, value in records[0][2].items()}
        captions = [text for _, _, r in records for text in captions_in(r, self.columns.captions)]
        own, listed = self._survey.classes(records)
        label = self._numbers.of_row(own)
        classes = None if listed is None else self._numbers.of_list(listed)
        numbers = [label] if label is not None else classes or []
        if not captions and not self.columns.is_sample_per_row:  # a class would answer the question
            captions = [name for name in (self._numbers.caption(numbers),) if name]
        if has_lists(row):
            row = {**row, "labels": classes}
        texts = {
            "txt": "\n".join(captions).encode(),
            "json": as_json({**row, "captions": captions}),
        }
        return texts if label is None else {**texts, "cls": str(label).encode()}


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
                data, path = read_file(image), image
            else:
                data, path = image.read(), Path(image.path or image.key)
            extension = self._extension(column, member_extension(path, data))
            if extension in members:
                raise SampleError(f"column {column}: another column has a file .{extension} too")
            members[extension] = data
        return {**members, **self.table.texts(records)}

    def _extension(self, column: str, kind: str) -> str:
        """Return the extension of a file: that of its format, after its column unless the first."""
        used = self.table.columns
        if column in used.sounds and kind not in SOUND_EXTENSIONS:
            raise SampleError(f"column {column}: expected a sound, got .{kind}")
        is_first = column in (*used.images[:1], *used.sounds[:1])
        return kind if is_first else f"{member_of(column)}.{kind}"

    def texts(self) -> Mapping[str, bytes]:
        """See ``Item.texts``."""
        return self.table.texts(self.table.records(self.number))

    def _images(self, records: Sequence[Record]) -> dict[str, Path | _StoredImage]:
        """Return the images of the first row by column; empty cells are left out."""
        number, _, row = records[0]
        part = self.table.parts[number]
        images: dict[str, Path | _StoredImage] = {}
        for column in self.table.columns.files:
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
