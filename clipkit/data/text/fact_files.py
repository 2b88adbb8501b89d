"""Rows of a table of facts: CSV, TSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from clipkit.errors import ConfigError, DataError, first_line

NAME: Final = "name"
_SEPARATORS: Final = {".csv": ",", ".tsv": "\t"}
_SUFFIXES: Final = (*_SEPARATORS, ".json", ".parquet")
_MAX_BYTES: Final = 2**28
_EXPECTED: Final = "a list of objects with a name, or an object of definitions or objects by name"


def fact_rows(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the rows of a table of facts.

    Args:
        path: ``.csv`` or ``.tsv`` with a header; ``.parquet``; or ``.json`` with a list of objects,
            or an object of definitions or objects by name.

    Yields:
        The place of each row for messages, and its cells by column. A list in a cell of CSV or TSV
        is a text with ``;`` between its items.

    Raises:
        ConfigError: If it is no such file, or pyarrow is missing.
        DataError: If the file is too large, or cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(f"facts: expected a table ({', '.join(_SUFFIXES)}), got {path}")
    if not path.is_file():
        raise ConfigError(f"facts: there is no file {path}")
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise DataError(f"{path}: expected a table of at most {_MAX_BYTES:,} bytes, got {size:,}")
    if suffix == ".parquet":
        yield from _parquet_rows(path)
    elif suffix == ".json":
        yield from _json_rows(path)
    else:
        yield from _text_rows(path, _SEPARATORS[suffix])


def _text_rows(path: Path, separator: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), delimiter=separator)
    try:
        names = list(reader.fieldnames or [])
        if NAME not in names or len(set(names)) < len(names):
            raise DataError(
                f"{path}: expected a header with the column {NAME!r}, and no column twice, got "
                f"{', '.join(map(repr, names)) or 'none'}"
            )
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            if None in row:
                raise DataError(
                    f"{where}: expected {len(names)} cells, got {len(names) + len(row[None])}; "
                    f"quote texts that contain {separator!r}"
                )
            yield where, dict(row)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {first_line(error)}") from error
    if isinstance(content, Mapping):
        for name, value in content.items():
            row = {"definition": value} if isinstance(value, str) else value
            if not isinstance(row, dict):
                raise DataError(f"{path}: {name!r}: expected {_EXPECTED}, got {value!r:.60}")
            yield f"{path}: {name!r:.60}", {NAME: name, **row}
        return
    if not isinstance(content, list):
        raise DataError(f"{path}: expected {_EXPECTED}, got {type(content).__name__}")
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: item {number}: expected {_EXPECTED}, got {row!r:.60}")
        yield f"{path}: item {number}", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ConfigError(
            f"facts: {path}: reading Parquet needs pyarrow: pip install 'clipkit[tables]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            if NAME not in (names := file.schema_arrow.names):
                raise DataError(f"{path}: expected the column {NAME!r}, got {', '.join(names)}")
            number = 0
            for batch in file.iter_batches(4096):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except (ArrowException, OSError, ValueError, ArithmeticError) as error:
        raise DataError(f"{path}: not a complete Parquet file: {first_line(error)}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8, got byte {error.object[error.start]:#04x} at {error.start}"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
