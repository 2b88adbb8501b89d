"""What the columns of a collection hold: frequent values, or the range of numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from clipkit.collection import Collection
from clipkit.collection.arrow import arrow
from clipkit.collection.shard_tables import COLUMNS
from clipkit.search.serving.schemas import ColumnAnswer, ColumnName, ValueCount

_MOST_VALUES: Final = 100
_MOST_DIFFERENT: Final = 100_000
_LONGEST_VALUE: Final = 1000
_LABEL: Final = "label"
_HIDDEN: Final = frozenset(
    {"image_offset_bytes", "image_size_bytes", "image_sha256", "image_signature"}
)


def column_names(collection: Collection) -> list[ColumnName]:
    """Return the columns that filters may name, with the types of the first shard's table."""
    info = collection.info
    hidden = _HIDDEN | {
        f"{name}_{fact}" for name in info.modalities for fact in ("offset_bytes", "size_bytes")
    }
    known = (*COLUMNS, *info.columns, *info.modality_columns)
    names = [name for name in known if name not in hidden]
    schema = collection.table(names, np.empty(0, dtype=np.int64)).schema
    return [ColumnName(name=name, type=str(schema.field(name).type)) for name in names]


def describe_column(collection: Collection, column: ColumnName) -> ColumnAnswer:
    """Count the values of a column, shard by shard.

    Counting ends at 100,000 different values: nearly all values of such a column differ.

    Raises:
        DataError: If a table is missing or damaged.
    """
    import pyarrow.compute as pc

    types = arrow().types
    counts: Counter[Any] | None = Counter()
    low: float | None = None
    high: float | None = None
    missing = 0
    for files in collection.shards:
        values = files.table([column.name]).column(column.name)
        missing += values.null_count
        if types.is_list(values.type):
            values = pc.list_flatten(values)
        if types.is_null(values.type) or len(values) == values.null_count:
            continue
        is_floating = types.is_floating(values.type)
        is_number = types.is_integer(values.type) or is_floating
        if is_floating:  # NaN and infinity are no ends of a range
            values = values.filter(pc.is_finite(values))
            if len(values) == values.null_count:
                continue
        if is_number:
            ends = pc.min_max(values).as_py()
            low = ends["min"] if low is None else min(low, ends["min"])
            high = ends["max"] if high is None else max(high, ends["max"])
        if counts is not None and (not is_number or column.name == _LABEL):
            counts = _counted(counts, values.drop_null())
    is_counted = counts is not None and (low is None or column.name == _LABEL)
    return ColumnAnswer(
        name=column.name,
        type=column.type,
        num_missing=missing,
        values=_most_frequent(counts) if counts is not None and is_counted else None,
        minimum=low,
        maximum=high,
    )


def _counted(counts: Counter[Any], values: Any) -> Counter[Any] | None:
    """Add the values of a shard; None if there are too many different ones."""
    for item in values.value_counts().to_pylist():
        value = item["values"]
        counts[value if isinstance(value, str | int | float | bool) else str(value)] += item[
            "counts"
        ]
    return counts if len(counts) <= _MOST_DIFFERENT else None


def _most_frequent(counts: Counter[Any]) -> list[ValueCount]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[:_MOST_VALUES]
    return [
        ValueCount(value=v[:_LONGEST_VALUE] if isinstance(v, str) else v, count=count)
        for v, count in ordered
    ]
