"""Clips of a data set of sounds, and the items that are packed of them."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from clipkit.class_names import class_names_text
from clipkit.data.packing.items import FileItem, Item
from clipkit.data.packing.tables.table import as_json
from clipkit.errors import DataError

_SHOWN: Final = 3
_MOST_DIGITS: Final = 9
_SHOWN_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Clip:
    """A sound of a data set.

    Args:
        file: Path of the sound.
        classes: Numbers of its classes; one unless the set has several per sound.
        facts: What else the set says about it, in JSON types.
    """

    file: Path
    classes: tuple[int, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SplitClips:
    """Clips of one split.

    Args:
        clips: The clips, in the order of the table.
        class_names: Name of each class by its number.
        several: Whether a clip may have several classes.
    """

    clips: Sequence[Clip]
    class_names: tuple[str, ...]
    several: bool = False

    def items(self) -> list[Item]:
        """Return the samples: class, its name as caption, facts, and a vector of several classes.

        Raises:
            DataError: If a sound is missing, or in several rows.
        """
        repeated = [file for file, n in Counter(clip.file for clip in self.clips).items() if n > 1]
        if repeated:
            raise DataError(
                f"{len(repeated)} sounds are in several rows of the table: {_shown(repeated)}; "
                f"expected each once, as it would be counted several times"
            )
        missing = [clip.file for clip in self.clips if not clip.file.is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self.clips)} sounds are missing: {_shown(missing)}; "
                f"complete the set"
            )
        return [FileItem(clip.file, self._members(clip)) for clip in self.clips]

    def files(self) -> dict[str, str]:
        """Return the text files next to the shards, by name."""
        kind = "multilabel" if self.several else "classification"
        names = class_names_text(self.class_names)
        return {"classnames.txt": names, "dataset_type.txt": f"{kind}\n"}

    def _members(self, clip: Clip) -> dict[str, bytes]:
        names = [self.class_names[number] for number in clip.classes]
        facts = {**clip.facts, "captions": names}
        texts = {"txt": "\n".join(names).encode()}
        if not self.several:
            return {**texts, "cls": str(clip.classes[0]).encode(), "json": as_json(facts)}
        vector = np.zeros(len(self.class_names), dtype=np.int8)
        vector[list(clip.classes)] = 1
        stored = io.BytesIO()
        np.save(stored, vector, allow_pickle=False)
        labels = {**facts, "labels": list(clip.classes)}
        return {**texts, "json": as_json(labels), "npy": stored.getvalue()}


def _shown(files: Sequence[Path]) -> str:
    names = ", ".join(str(file) for file in files[:_SHOWN])
    return names + ", ..." * (len(files) > _SHOWN)


class SoundSet(ABC):
    """A data set of sounds in its own form (abstract).

    Args:
        root: Folder of the set.
    """

    title: str
    marker: str
    """Path of the table, below the folder, by which the set is recognised."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def table(self) -> Path:
        """Path of the table."""
        return self.root / self.marker

    @abstractmethod
    def split(self, name: str) -> SplitClips:
        """Return the clips of a split.

        Args:
            name: Name of the split; "" for all clips.

        Raises:
            DataError: If there is no such split, or the table is damaged.
        """


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV file with their place, after a check of its columns.

    Args:
        path: The file.
        columns: Columns that are needed.

    Raises:
        DataError: If the file cannot be read, or a column or a value is missing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason}") from error
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        found = rows.fieldnames or ()
        if not set(columns) <= set(found):
            raise DataError(
                f"{path}: expected the columns {', '.join(columns)}, got "
                f"{', '.join(found)[:_SHOWN_CHARACTERS] or 'none'}"
            )
        for row in rows:
            where = f"{path}: line {rows.line_num}"
            if empty := next((name for name in columns if not row[name]), None):
                raise DataError(f"{where}: no value in the column {empty}")
            yield where, {name: row[name] for name in columns}
    except csv.Error as error:
        raise DataError(f"{path}: line {max(rows.line_num, 1)}: {error}") from error


def number_in(row: Mapping[str, str], column: str, where: str) -> int:
    """Return the number in a cell.

    Raises:
        DataError: If it is none, negative, or has more than 9 digits.
    """
    text = row[column].strip()
    if not (text.isascii() and text.isdecimal()) or len(text) > _MOST_DIGITS:
        raise DataError(
            f"{where}: {column}: expected a number from 0, of at most {_MOST_DIGITS} digits, got "
            f"{text[:_SHOWN_CHARACTERS]!r}"
        )
    return int(text)


def file_in(folder: Path, name: str, where: str) -> Path:
    """Return the path of a file in a folder; a table must not name files elsewhere.

    Raises:
        DataError: If the name is no name of a file.
    """
    if Path(name).name != name or name in ("", ".", "..") or "\0" in name:
        raise DataError(f"{where}: expected the name of a file in {folder}, got {name!r}")
    return folder / name


def shown_class(name: str) -> str:
    """Return the name of a class as prompts and captions have it, without underscores."""
    return " ".join(name.replace("_", " ").split())
