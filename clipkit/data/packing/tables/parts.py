"""Files that together are one table: one file, or Parquet parts in one folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import has_magic
from pathlib import Path
from typing import Final

from clipkit.data.packing.tables.arrow_rows import ParquetRows
from clipkit.data.packing.tables.row_files import CsvRows, TableRows
from clipkit.errors import DataError

_PART: Final = re.compile(r"(?:(.*?)-)?\d{4,}-of-\d{4,}.*|\d{4,}|(part)-\d+.*")


def open_parts(files: Sequence[Path], versions: Sequence[str] = ()) -> list[TableRows]:
    """Open the files of a table.

    Args:
        files: The files, in order.
        versions: Text that identifies the content of each file; none for size and time of change.
    """
    if versions:
        return [ParquetRows(file, text) for file, text in zip(files, versions, strict=True)]
    return [
        ParquetRows(file) if file.suffix.lower() == ".parquet" else CsvRows(file) for file in files
    ]


def parts_of(tables: Sequence[Path]) -> list[Path] | None:
    """Return the tables of a folder if they are one table; None if they are several.

    Parts are Parquet files as the Hub (``train-00000-of-00002``, ``0000``), img2dataset (``00000``)
    and Spark (``part-0``) name them, all with the same beginning.

    Examples:
        >>> len(parts_of([Path("t-00000-of-00002.parquet"), Path("t-00001-of-00002.parquet")]))
        2
        >>> parts_of([Path("train.parquet"), Path("val.parquet")]) is None
        True
    """
    if len(tables) <= 1:
        return list(tables)
    are_parquet = all(file.suffix.lower() == ".parquet" for file in tables)
    beginnings = {beginning_of(file.stem) for file in tables}
    is_one = are_parquet and len(beginnings) == 1 and None not in beginnings
    return list(tables) if is_one else None


def beginning_of(stem: str) -> str | None:
    """Return what is in front of a part's number in its name; None if the name has no such number.

    Examples:
        >>> beginning_of("wiki2021-00000-of-00002"), beginning_of("0000"), beginning_of("train")
        ('wiki2021', '', None)
    """
    match = _PART.fullmatch(stem)
    return None if match is None else match[1] or match[2] or ""


def is_pattern(path: Path) -> bool:
    """Return whether a path is a glob of Parquet files, such as ``data/train-*.parquet``."""
    return path.suffix.lower() == ".parquet" and has_magic(str(path)) and not path.exists()


def matches_of(pattern: Path) -> list[Path]:
    """Return the files that a glob of Parquet files matches, by name."""
    found = sorted(pattern.parent.glob(pattern.name))
    if not found:
        raise DataError(f"{pattern}: no files match; expected Parquet files there")
    return found
