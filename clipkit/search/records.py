"""What the tables of a collection say about some rows, as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from clipkit.collection import Collection, CollectionInfo

_SHOWN: Final = (
    "key", "captions", "label", "image_type", "width_pixels", "height_pixels", "error",
)  # fmt: skip
_SHOWN_OF_MODALITY: Final = ("type", "seconds", "error")
_LABEL: Final = "label"
MAX_SHOWN: Final = 2000
"""Characters of a text that are shown."""


def read_records(
    collection: Collection, rows: Sequence[int], columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return the values of the columns of some rows, in their order.

    Args:
        collection: The collection.
        rows: Numbers of the rows.
        columns: Names of the columns; None for all that people read (no hashes and offsets).

    Returns:
        For each row ``row``, ``class_name`` if ``label`` is among the columns, and the columns.
        Bytes are hexadecimal; None stands for NaN and infinity, which JSON cannot hold.

    Raises:
        DataError: If there is no such row or column.
    """
    info = collection.info
    further = [f"{name}_{fact}" for name in info.modalities for fact in _SHOWN_OF_MODALITY]
    names = [*_SHOWN, *further, *info.columns] if columns is None else list(columns)
    table = collection.table(names, np.asarray(rows, dtype=np.int64))
    values = table.to_pydict()
    records = []
    for place, row in enumerate(rows):
        record: dict[str, Any] = {"row": int(row)}
        for name in names:
            value = values[name][place]
            record[name] = value.hex() if isinstance(value, bytes) else finite_or_none(value)
            if name == _LABEL:
                record["class_name"] = class_name_of(info, value)
        records.append(record)
    return records


def finite_or_none(value: Any) -> Any:
    """Return a value; None for numbers that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cut_text(text: str) -> str:
    """Return the first 2,000 characters of a text, an ellipsis included if it is longer."""
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def class_name_of(info: CollectionInfo, label: int | None) -> str | None:
    """Return the name of a class; None if it has none."""
    if label is None or not 0 <= label < len(info.class_names):
        return None
    return info.class_names[label] or None
