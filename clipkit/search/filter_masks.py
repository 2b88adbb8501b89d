"""Which rows of a collection pass filters, shard by shard; the last masks are kept."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, final

import numpy as np
from jaxtyping import Bool

from clipkit.class_names import shown_names
from clipkit.collection import Collection
from clipkit.collection.arrow import arrow
from clipkit.collection.shard_tables import COLUMNS
from clipkit.errors import ConfigError
from clipkit.search.engine import RowMask
from clipkit.search.row_filter import RowFilter
from clipkit.search.usable_rows import usable_rows
from clipkit.suggestions import did_you_mean

_KEPT_MASKS: Final = 8
_LABEL: Final = "label"
_POSITIVE: Final = {"!=": "=", "!~": "~"}
_FUNCTIONS: Final = {
    "=": "equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
_BOOLS: Final = {"true": True, "false": False}


@final
class FilterMasks:
    """Evaluates filters over the tables of a collection; safe for threads.

    Args:
        collection: The collection.
        modality: What is searched for: "image", or the name of a further modality.

    Attributes:
        usable: Rows with an embedding, which are the only ones that pass.

    Raises:
        DataError: If a table is missing or damaged.
    """

    def __init__(self, collection: Collection, modality: str = "image") -> None:
        self.usable = usable_rows(collection, modality)
        self._collection = collection
        self._masks: OrderedDict[RowFilter, RowMask] = OrderedDict()
        self._lock = threading.Lock()

    def mask(self, filters: Sequence[RowFilter], without: Sequence[int] = ()) -> RowMask:
        """Return the rows that have an embedding and pass all filters.

        Args:
            filters: The filters.
            without: Rows that do not pass.

        Raises:
            ConfigError: If a filter has no such column, or its value does not fit the column.
            DataError: If a table is missing or damaged.
        """
        passed = self.usable.copy()
        for each in filters:
            passed &= self._of_filter(each)
        passed[list(without)] = False
        return passed

    def _of_filter(self, condition: RowFilter) -> RowMask:
        with self._lock:
            if condition in self._masks:
                self._masks.move_to_end(condition)
                return self._masks[condition]
        mask = self._evaluate(condition)
        with self._lock:
            self._masks[condition] = mask
            while len(self._masks) > _KEPT_MASKS:
                self._masks.popitem(last=False)
        return mask

    def _evaluate(self, condition: RowFilter) -> RowMask:
        info = self._collection.info
        known = (*COLUMNS, *info.columns, *info.modality_columns)
        if condition.column not in known:
            raise ConfigError(
                f"filter {condition}: the collection has no column {condition.column!r}; it has "
                f"{', '.join(known)}{did_you_mean(condition.column, known)}"
            )
        positive = RowFilter(
            condition.column,
            _POSITIVE.get(condition.operator, condition.operator),
            condition.value,
        )
        labels = _labels(positive, info.class_names) if condition.column == _LABEL else ()
        mask = np.zeros(len(self._collection), dtype=np.bool_)
        for start, files in zip(self._collection.starts, self._collection.shards, strict=False):
            column = files.table([condition.column]).column(condition.column).combine_chunks()
            passed = _any_label(column, labels) if labels else passes(column, positive)
            mask[start : start + len(passed)] = passed
        return ~mask if condition.operator in _POSITIVE else mask


def passes(column: Any, condition: RowFilter) -> Bool[np.ndarray, " N"]:
    """Return which values of an Arrow array pass a filter with a positive operator.

    Raises:
        ConfigError: If the filter does not fit the type of the column.
    """
    types = arrow().types
    kind = column.type
    if types.is_null(kind):
        return np.zeros(len(column), dtype=np.bool_)
    if types.is_list(kind):
        return _any_item(column, condition)
    if types.is_boolean(kind):
        return _compared(column, condition, _bool)
    if types.is_integer(kind) or types.is_floating(kind):
        return _compared(column, condition, _number)
    if not types.is_string(kind) and not types.is_large_string(kind):
        raise ConfigError(f"filter {condition}: columns of type {kind} cannot be filtered")
    if condition.operator == "~":
        import pyarrow.compute

        found = pyarrow.compute.match_substring(column, condition.value, ignore_case=True)
        return _as_mask(found)
    return _compared(column, condition, lambda each: each.value)


def _any_item(column: Any, condition: RowFilter) -> Bool[np.ndarray, " N"]:
    """Return which lists have an item that passes."""
    import pyarrow.compute

    passed = np.zeros(len(column), dtype=np.bool_)
    parents = np.asarray(pyarrow.compute.list_parent_indices(column))
    passed[parents[passes(column.flatten(), condition)]] = True
    return passed


def _any_label(column: Any, labels: tuple[int, ...]) -> Bool[np.ndarray, " N"]:
    import pyarrow.compute

    wanted = arrow().array(labels, type=column.type)
    return _as_mask(pyarrow.compute.is_in(column, wanted))


def _compared(
    column: Any, condition: RowFilter, value: Callable[[RowFilter], bool | float | str]
) -> Bool[np.ndarray, " N"]:
    import pyarrow.compute

    if condition.operator not in _FUNCTIONS:
        raise ConfigError(
            f"filter {condition}: {condition.operator!r} is for texts, {condition.column} is of "
            f"type {column.type}; use one of {' '.join(_FUNCTIONS)}"
        )
    function = _FUNCTIONS[condition.operator]
    return _as_mask(pyarrow.compute.call_function(function, [column, value(condition)]))


def _as_mask(passed: Any) -> Bool[np.ndarray, " N"]:
    mask: Bool[np.ndarray, " N"] = np.asarray(passed.fill_null(False), dtype=np.bool_)
    return mask


def _number(condition: RowFilter) -> float:
    """Return the number of a filter's value."""
    for kind in (int, float):
        try:
            number = kind(condition.value)
        except ValueError:
            continue
        if math.isfinite(number) and abs(number) < 2**63:
            return number
    raise ConfigError(f"filter {condition}: expected a number, got {condition.value!r}")


def _bool(condition: RowFilter) -> bool:
    if condition.value.lower() not in _BOOLS:
        raise ConfigError(f"filter {condition}: expected true or false, got {condition.value!r}")
    return _BOOLS[condition.value.lower()]


def _labels(condition: RowFilter, class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of the classes that a name means; nothing if it is a number."""
    try:
        _number(condition)
    except ConfigError:
        shown = shown_names(class_names, len(class_names))
        found = [
            number
            for number, names in enumerate(zip(class_names, shown, strict=True))
            if condition.value in names
        ]
        if condition.operator == "=" and found:
            return tuple(found)
        raise ConfigError(
            f"filter {condition}: expected the number of a class, or '=' and the name of one of "
            f"{len(class_names)} classes, got {condition.value!r}"
            f"{did_you_mean(condition.value, class_names)}"
        ) from None
    return ()
