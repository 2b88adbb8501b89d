"""Filters by their names and options, as a command line and YAML files write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

from clipkit.curation.filters.base import Filter
from clipkit.curation.filters.captions import (
    CaptionCharactersFilter,
    CaptionWordsFilter,
    LanguageFilter,
    ScriptFilter,
)
from clipkit.curation.filters.class_balance import ClassBalanceFilter
from clipkit.curation.filters.copies.embedding_copies import (
    EmbeddingDuplicateFilter,
    KnownEmbeddingFilter,
)
from clipkit.curation.filters.copies.file_copies import FileDuplicateFilter
from clipkit.curation.filters.copies.image_copies import ImageDuplicateFilter, KnownImageFilter
from clipkit.curation.filters.metadata_balance import MetadataBalanceFilter
from clipkit.curation.filters.predicate import PredicateFilter
from clipkit.curation.filters.score_filters import BestScoresFilter, MinScoreFilter
from clipkit.curation.filters.sizes import MaxAspectFilter, MinPixelsFilter, MinSideFilter
from clipkit.errors import ConfigError
from clipkit.suggestions import did_you_mean
from clipkit.yaml_files import read_yaml

FILTERS: Final[Mapping[str, type[Filter]]] = {
    "min_score": MinScoreFilter,
    "best_scores": BestScoresFilter,
    "min_side": MinSideFilter,
    "min_pixels": MinPixelsFilter,
    "max_aspect": MaxAspectFilter,
    "caption_words": CaptionWordsFilter,
    "caption_characters": CaptionCharactersFilter,
    "scripts": ScriptFilter,
    "languages": LanguageFilter,
    "file_duplicates": FileDuplicateFilter,
    "image_duplicates": ImageDuplicateFilter,
    "embedding_duplicates": EmbeddingDuplicateFilter,
    "not_in": KnownImageFilter,
    "not_near": KnownEmbeddingFilter,
    "max_per_class": ClassBalanceFilter,
    "balance_metadata": MetadataBalanceFilter,
    "predicate": PredicateFilter,
}
"""Filters by name."""

_KINDS: Final = {int: "an integer", float: "a number", str: "a text", Path: "a path"}


def make_filter(name: str, given: object = None) -> Filter:
    """Return a filter.

    Args:
        name: One of ``FILTERS``.
        given: Its options: a mapping by name, a list in their order, or the value of the first.

    Raises:
        ConfigError: If there is no such filter or option, an option is missing, or a value is
            wrong.

    Examples:
        >>> make_filter("caption_words", {"least": 3}) == make_filter("caption_words", 3)
        True
    """
    if name not in FILTERS:
        raise ConfigError(
            f"filters: expected one of {', '.join(FILTERS)}, got {name!r}"
            f"{did_you_mean(name, FILTERS)}"
        )
    kind = FILTERS[name]
    kinds = get_type_hints(kind)
    options = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    values = _by_name(name, {each: kinds[each] for each in options}, given)
    for each in values:
        if each not in options:
            known = ", ".join(options) or "none"
            raise ConfigError(f"{name}: expected options of {known}, got {each!r}")
    for each, option in options.items():
        if option.default is MISSING and each not in values:
            raise ConfigError(f"{name}: expected a value for {each}, got none")
    return kind(
        **{
            each: _value(name if each == name else f"{name}: {each}", value, kinds[each])
            for each, value in values.items()
        }
    )


def read_filters(path: Path) -> list[Filter]:
    """Read filters from a YAML file: a list of names, each with its options.

    Raises:
        ConfigError: If the file is missing or no such list; see ``make_filter``.
    """
    content = read_yaml(path)
    if not isinstance(content, list) or not content:
        raise ConfigError(
            f"{path}: expected a list of filters, such as '- min_score: 0.25', got "
            f"{type(content).__name__}"
        )
    filters = []
    for number, entry in enumerate(content, start=1):
        if isinstance(entry, str):
            name, given = entry, None
        elif isinstance(entry, dict) and len(entry) == 1:
            name, given = next(iter(entry.items()))
        else:
            raise ConfigError(
                f"{path}: filter {number}: expected one name with its options, got {entry!r}"
            )
        try:
            filters.append(make_filter(str(name), given))
        except ConfigError as error:
            raise ConfigError(f"{path}: filter {number}: {error}") from error
    return filters


def _by_name(name: str, kinds: Mapping[str, Any], given: object) -> dict[str, object]:
    """Return the values of options by their names."""
    if given is None:
        return {}
    if isinstance(given, dict):
        return {str(key): value for key, value in given.items()}
    if len(kinds) == 1 and get_origin(next(iter(kinds.values()))) is tuple:
        return {next(iter(kinds)): given}
    values = list(given) if isinstance(given, list | tuple) else [given]
    if len(values) > len(kinds):
        raise ConfigError(
            f"{name}: expected at most {len(kinds)} values ({', '.join(kinds) or 'no options'}), "
            f"got {len(values)}"
        )
    return dict(zip(kinds, values, strict=False))


def _value(where: str, value: object, kind: Any) -> object:
    """Convert a value to the type of an option.

    Raises:
        ConfigError: If it has another type.
    """
    if isinstance(kind, UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
        if value is None:
            return None
    if get_origin(kind) is tuple:
        values: Sequence[object] = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(where, each, get_args(kind)[0]) for each in values)
    converted = _plain(value, kind)
    if converted is None:
        raise ConfigError(f"{where}: expected {_KINDS[kind]}, got {value!r}")
    return converted


def _plain(value: object, kind: type) -> object:
    """Return a text, path or number, also if a number is written as a text; None for another."""
    if kind in (str, Path):
        return kind(value) if isinstance(value, str | Path) and str(value) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        if kind is float:
            return float(value)
        is_whole = not isinstance(value, float) or value.is_integer()
        return int(value) if is_whole else None
    except (ValueError, OverflowError):
        return None
