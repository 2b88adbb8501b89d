"""The columns of an Arrow schema: which contain images, and names of classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, final

from clipkit.data.packing.labels import LABEL_COLUMNS
from clipkit.errors import DataError

_NO_LABEL: Final = -1
"""Missing class of the Hub's data sets."""


@final
class ArrowColumns:
    """Columns of an Arrow table, and its rows as plain types.

    Args:
        schema: The table's schema.

    Attributes:
        names: All columns.
        plain: Columns without bytes.
        with_bytes: Columns with an image per row: bytes, or a struct with ``bytes``.
        with_paths: Those of them that also have a ``path``.
    """

    def __init__(self, schema: Any) -> None:
        from pyarrow import types

        self.names: list[str] = list(schema.names)
        kinds = {field.name: field.type for field in schema}
        self.with_bytes = [name for name, kind in kinds.items() if _is_image(kind)]
        self.structs = [name for name in self.with_bytes if types.is_struct(kinds[name])]
        self.with_paths = [
            name for name in self.structs if "path" in [field.name for field in kinds[name]]
        ]
        self.plain = [name for name, kind in kinds.items() if not _contains_bytes(kind)]
        self._class_names = _class_names(schema.metadata or {})

    def check_images(self, where: str, images: Sequence[str]) -> None:
        """Refuse an image column with bytes of another form."""
        for name in images:
            if name not in self.with_bytes and name not in self.plain:
                raise DataError(
                    f"{where}: column {name}: expected one file per row, as the name of a file, "
                    f"bytes, or a struct of bytes and path; got another type"
                )

    def rows(
        self, batch: Any, images: Sequence[str], first: int, embedded: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Convert a batch; ``first`` is the number of its first row in the table."""
        read = [name for name in self.plain if name in batch.schema.names]
        columns = {name: batch.column(name).to_pylist() for name in read}
        for name in images:
            columns[name] = self._cells(batch, name, name in embedded)
        for number in range(batch.num_rows):
            row = {name: cells[number] for name, cells in columns.items()}
            for name in images:
                if row[name] is not None and not isinstance(row[name], str):
                    row[name] = {"row": first + number, **row[name]}
            yield self._with_class_name(row)

    def _cells(self, batch: Any, name: str, embedded: bool) -> list[Any]:
        """Return ``{"path": ...}`` for each image in the table, and the path for others."""
        import pyarrow.compute as pc

        size = batch.num_rows
        paths: list[Any] = [None] * size
        if name in self.with_paths:
            paths = pc.struct_field(batch.column(name), "path").to_pylist()
        present = [True] * size
        if not embedded:
            column = batch.column(name)
            data = pc.struct_field(column, "bytes") if name in self.structs else column
            present = pc.is_valid(data).to_pylist()
        return [{"path": path} if has else path for has, path in zip(present, paths, strict=True)]

    def _with_class_name(self, row: dict[str, Any]) -> dict[str, Any]:
        """Add the name of a class that the schema has, as in the Hub's ``ClassLabel``."""
        for column, names in self._class_names.items():
            label = row.get(column)
            if label == _NO_LABEL:
                row[column] = None
            elif isinstance(label, int) and 0 <= label < len(names):
                row.setdefault("class_name", names[label])
        return row


def _is_image(kind: Any) -> bool:
    """Return whether cells are bytes, or a struct with ``bytes``."""
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _contains_bytes(kind: Any) -> bool:
    """Return whether a type contains bytes at any depth, which no JSON can store."""
    fields = [kind.field(number) for number in range(kind.num_fields)]
    return _is_binary(kind) or any(_contains_bytes(field.type) for field in fields)


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Return the names of classes in the Hub's description of the columns."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in features[column]["names"]]
            for column in LABEL_COLUMNS
            if features.get(column, {}).get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
