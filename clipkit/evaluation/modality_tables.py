"""Metrics of all ordered pairs of modalities as tables: query by row, target by column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_COUNT: Final = "/num_samples"
_MEASURE: Final = re.compile(r"recall_at_(\d+)|median_rank|mean_rank")


@dataclass(frozen=True, slots=True)
class ComparedPair:
    """Two modalities that a retrieval compared.

    Args:
        prefix: Text before its names, such as "retrieval/"; empty for a single task.
        first: Name of one modality.
        second: Name of the other one.
        num_samples: Samples that have both.
        num_left_out: Samples that lack one of them.
    """

    prefix: str
    first: str
    second: str
    num_samples: int
    num_left_out: int


def compared_pairs(
    metrics: Mapping[str, float], details: Mapping[str, float]
) -> list[ComparedPair]:
    """Return the pairs of modalities that the details of an evaluation name.

    Args:
        metrics: Metrics by name, such as ``sound_to_text/recall_at_1``.
        details: Details by name, such as ``sound_and_text/num_samples``.

    Examples:
        >>> details = {"sound_and_text/num_samples": 9, "sound_and_text/num_left_out": 1}
        >>> compared_pairs({"sound_to_text/recall_at_1": 0.5}, details)
        [ComparedPair(prefix='', first='sound', second='text', num_samples=9, num_left_out=1)]
    """
    ways = {name.rpartition("/")[0] for name in metrics}
    found = []
    for key, value in details.items():
        if not key.endswith(_COUNT):
            continue
        prefix, slash, both = key.removesuffix(_COUNT).rpartition("/")
        start = prefix + slash
        for place in re.finditer("_and_", both):  # a name may contain this, too
            first, second = both[: place.start()], both[place.end() :]
            if f"{start}{first}_to_{second}" in ways:
                left_out = details.get(f"{start}{both}/num_left_out", 0)
                found.append(ComparedPair(start, first, second, int(value), int(left_out)))
    return found


def modality_names(pairs: Sequence[ComparedPair]) -> list[str]:
    """Return the names of all modalities, text last."""
    names = dict.fromkeys(name for pair in pairs for name in (pair.first, pair.second))
    return sorted(names, key=lambda name: name == "text")


def modality_tables(
    metrics: Mapping[str, float], pairs: Sequence[ComparedPair]
) -> dict[str, dict[str, dict[str, str]]]:
    """Return the key of each measure of each ordered pair.

    Args:
        metrics: Metrics by name.
        pairs: Pairs of modalities.

    Returns:
        Keys by measure ("recall_at_1", "median_rank"), query and target; recalls first.
    """
    measures: dict[str, dict[str, dict[str, str]]] = {}
    for pair in pairs:
        for query, target in ((pair.first, pair.second), (pair.second, pair.first)):
            start = f"{pair.prefix}{query}_to_{target}/"
            for key in metrics:
                name = key.removeprefix(start)
                if name != key and _MEASURE.fullmatch(name):
                    measures.setdefault(name, {}).setdefault(query, {})[target] = key
    return dict(sorted(measures.items(), key=lambda item: _order(item[0])))


def _order(measure: str) -> tuple[bool, int, str]:
    match = re.search(r"\d+", measure)
    return match is None, int(match[0]) if match else 0, measure
