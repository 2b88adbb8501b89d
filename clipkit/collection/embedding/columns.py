"""Fields of the samples as columns: one type for all shards, and values of that type."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from clipkit.collection.embedding.members import read_members
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.members import read_value
from clipkit.data.shards.reader import ShardReader
from clipkit.errors import SampleError

_NUM_EXAMINED: Final = 1000
"""Number of samples whose values decide the type of a column."""
_INT64: Final = range(-(2**63), 2**63)


def column_types(fields: Sequence[str], index: ShardIndex, num_samples: int) -> dict[str, str]:
    """Return the Arrow type of each field, from the values of up to 1,000 samples.

    These are spread evenly over local data; of remote data, they are the first ones.

    Args:
        fields: Members ("txt") or fields of a JSON member ("json:author").
        index: The shards.
        num_samples: Number of samples that are embedded.

    Returns:
        "bool", "int64" or "double" if all values are such numbers, else "string".
    """
    if not fields:
        return {}
    reader = ShardReader(index)
    last = num_samples if reader.is_local else min(num_samples, int(index.counts[0]))
    examined = np.unique(np.linspace(0, last - 1, min(last, _NUM_EXAMINED)).astype(np.int64))
    values: dict[str, list[Any]] = {field: [] for field in fields}
    for sample_id in examined.tolist():
        shard, position = index.locate(sample_id)
        spans = reader.table(shard).members(position)
        sizes = {name: size for name, (_, size) in spans.items()}
        for field in fields:
            try:
                members = read_members(reader, sample_id, sizes, {field.partition(":")[0]})
                values[field].append(read_value(members, field))
            except SampleError:  # counted when the sample is embedded
                continue
    return {field: type_of(found) for field, found in values.items()}


def type_of(values: Iterable[Any]) -> str:
    """Return the type of a column with some values, of which None and missing ones say nothing.

    Examples:
        >>> type_of([1, None, 2.5]), type_of([True, 1]), type_of([None])
        ('double', 'string', 'string')
    """
    kinds = {_kind(value) for value in values if value is not None}
    if kinds == {"int64", "double"}:
        return "double"
    return kinds.pop() if len(kinds) == 1 else "string"


class Misfit(ValueError):
    """A value that is not of the type of its column."""


def as_type(value: Any, kind: str) -> Any:
    """Return a value of JSON as one of a column.

    Numbers in a column of texts, lists and objects become JSON. NaN and infinity, which JSON has
    not, but Python reads and writes, become None.

    Args:
        value: Text, number, truth value, list, object or None.
        kind: Type of the column, as ``column_types`` returns it.

    Raises:
        Misfit: If the column is of numbers or truth values and the value is none.
        ValueError: If a text is not valid Unicode.

    Examples:
        >>> as_type(3, "double"), as_type(3, "string"), as_type(["a", "b"], "string")
        (3.0, '3', '["a", "b"]')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if kind == "string":
        return valid_text(value if isinstance(value, str) else json.dumps(value))
    own = _kind(value)
    if kind == "double" and own in ("int64", "double"):
        return float(value)
    if kind == "int64" and own == "double" and float(value).is_integer():
        own, value = "int64", int(value)
    if own != kind or (kind == "int64" and value not in _INT64):
        raise Misfit(f"expected {kind}, got {value!r}")
    return value


def valid_text(text: str) -> str:
    """Return a text, or raise ``ValueError`` if it cannot be stored as UTF-8."""
    text.encode()
    return text


def read_columns(
    members: Mapping[str, bytes], types: Mapping[str, str], on_misfit: Callable[[str, str], None]
) -> dict[str, Any]:
    """Return the values of the columns of a sample.

    Args:
        members: Members of the sample by extension.
        types: Type of each field.
        on_misfit: Called with the field and the reason for a value that is not of the type of its
            column, which becomes null.

    Raises:
        SampleError: If a member cannot be read.
    """
    values: dict[str, Any] = {}
    for field, kind in types.items():
        try:
            values[field] = as_type(read_value(members, field), kind)
        except Misfit as error:
            on_misfit(field, str(error))
            values[field] = None
    return values


def shown_misfits(misfits: Counter[str]) -> str:
    """Return how many values of which columns became null, as text."""
    return ", ".join(f"{count} of {field}" for field, count in sorted(misfits.items()))


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if value in _INT64 else "string"
    return "double" if isinstance(value, float) else "string"
