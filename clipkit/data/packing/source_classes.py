"""One list of class names for several sources: tables, folders and shards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clipkit.class_names import conflict, parse_class_names
from clipkit.data.packing.packed_cache import class_names_in, is_raw
from clipkit.data.packing.sources import CLASS_NAMES_FILE, open_source
from clipkit.data.packing.tables.columns import TableColumns
from clipkit.data.shards.counts import read_beside
from clipkit.data.shards.named import named_shards
from clipkit.data.storage.cache import ShardCache
from clipkit.data.storage.urls import Address
from clipkit.errors import DataError

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceClasses:
    """The classes of one source.

    Args:
        where: Name of the source in messages.
        names: Name of each class by its number, empty for a number without a name.
        are_given: Whether the numbers are in the source. Those of folders, and of tables with
            names only, are not: they are derived from the names.
    """

    where: str
    names: tuple[str, ...]
    are_given: bool


def classes_of(
    source: str,
    cache: ShardCache | None = None,
    *,
    allow_pipe: bool = False,
    allow_outside: bool = False,
    columns: TableColumns = TableColumns(),
) -> SourceClasses:
    """Find the names of a source's classes."""
    if is_raw(source):
        found = open_source(source, allow_outside=allow_outside, columns=columns)
        return SourceClasses(source, class_names_in(found.files), found.has_own_numbers)
    shards = named_shards(source, cache, allow_pipe=allow_pipe).addresses
    folders = list(dict.fromkeys(shard.folder for shard in shards if shard.folder is not None))
    lists = [SourceClasses(str(f), _names_beside(f, cache), are_given=True) for f in folders]
    return SourceClasses(source, join_classes(lists), are_given=True)


def join_classes(
    sources: Sequence[SourceClasses], known: Sequence[str] = (), known_from: str = "the model"
) -> tuple[str, ...]:
    """Assign the same numbers to the classes of several sources, by name.

    Numbers in the sources are kept, and must agree. Classes with a name only get the number of that
    name, or a number after all others.
    """
    names, origin = tuple(known), known_from
    for source in sources:
        if source.are_given and source.names:
            names = _by_number(names, origin, source)
            origin = origin if known else source.where
    for source in sources:
        if not source.are_given and not known:
            names = (*names, *[name for name in source.names if name not in names])
    unnamed = [source.where for source in sources if not source.names]
    if any(names) and unnamed and len(sources) > 1:
        _LOG.warning(
            "%s: no class names; class numbers there, if any, are used as those of the other data",
            ", ".join(unnamed),
        )
    return names


def _by_number(names: Sequence[str], origin: str, source: SourceClasses) -> tuple[str, ...]:
    at = conflict(names, source.names)
    if at is not None:
        raise DataError(
            f"{source.where}: class {at} is {source.names[at]!r}, but {names[at]!r} in {origin}; "
            f"use the same numbers, in the tables or in {CLASS_NAMES_FILE}"
        )
    size = max(len(names), len(source.names))
    lists = [[*some, *[""] * (size - len(some))] for some in (names, source.names)]
    return tuple(a or b for a, b in zip(*lists, strict=True))


def _names_beside(folder: Address, cache: ShardCache | None) -> tuple[str, ...]:
    """Read names next to shards; in CLIP_benchmark's layout they are one folder above."""
    for place in (folder, folder.folder):
        data = None if place is None else read_beside(place, CLASS_NAMES_FILE, cache)
        if data is not None:
            try:
                return parse_class_names(data.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{place}/{CLASS_NAMES_FILE}: not UTF-8: {error}") from error
    return ()
