"""Place the differences between models, with their intervals."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from clipkit.evaluation.comparison.content import Change, Estimate, PairComparison
from clipkit.evaluation.comparison.shown import estimate_texts, p_value_text
from clipkit.evaluation.report.sections.results import readable_metric

_MAX_CLASSES: Final = 40
_MAX_TILES: Final = 4
_MINUS: Final = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Number:
    """A value and its interval as text."""

    value: str  # the value
    interval: str  # both ends; empty if there is no interval


@dataclass(frozen=True, slots=True)
class Row:
    """One change on the page."""

    name: str  # metric or class
    baseline: Number  # value of the baseline
    model: Number  # value of the model
    difference: Number  # model minus baseline
    p_value: str  # p-value, corrected
    verdict: str  # "better", "worse" or "noise"
    bar: tuple[float, float, float] | None  # lower end, value, upper end in percent of the width


@dataclass(frozen=True, slots=True)
class Block:
    """A table of changes."""

    title: str  # what is compared
    baseline: str  # name of the model that is compared with
    model: str  # name of the other model; empty if rows name it
    rows: Sequence[Row]  # changes
    extent: str  # value at the right end of the bars of shares; empty if there are none
    note: str = ""  # what the table leaves out


@dataclass(frozen=True, slots=True)
class Tile:
    """The change of a primary metric as a large figure."""

    title: str  # data and model
    metric: str  # name of the metric
    unit: str  # "points" of percent, or empty
    row: Row  # the change


def tiles(pairs: Sequence[PairComparison], names: Mapping[str, str]) -> list[Tile]:
    """Return the primary metrics of at most four pairs."""
    shown = []
    for pair in pairs[:_MAX_TILES]:
        if pair.metrics:
            change = pair.metrics[0]
            row = _row(change.name, change, _extent(change))
            unit = "points" if change.is_share else ""
            shown.append(
                Tile(pair_title(pair, names, pairs), readable_metric(change.name), unit, row)
            )
    return shown


def overview(pairs: Sequence[PairComparison], names: Mapping[str, str]) -> list[Block]:
    """Return one table of the primary metrics, if there are many pairs or several models."""
    primary = [(pair_title(pair, names, pairs), pair.metrics[0]) for pair in pairs if pair.metrics]
    if len(primary) <= _MAX_TILES and len({pair.model for pair in pairs}) < 2:
        return []
    return [_block("Primary metrics", names[pairs[0].baseline], "", primary)]


def metric_blocks(pairs: Sequence[PairComparison], names: Mapping[str, str]) -> list[Block]:
    """Return a table of the metrics of each pair."""
    blocks = []
    for pair in pairs:
        title = (
            f"{pair_title(pair, names, pairs)}: {pair.num_units:,} images or queries in "
            f"{pair.num_groups:,} groups"
        )
        changes = [(readable_metric(change.name), change) for change in pair.metrics]
        blocks.append(_block(title, names[pair.baseline], names[pair.model], changes))
    return blocks


def class_blocks(pairs: Sequence[PairComparison], names: Mapping[str, str]) -> list[Block]:
    """Return a table of the classes of each pair that has classes."""
    blocks = []
    for pair in pairs:
        if pair.classes:
            shown = pair.classes[:_MAX_CLASSES]
            hidden = len(pair.classes) - len(shown)
            note = f"{hidden:,} more classes are in the JSON of --output." if hidden else ""
            changes = [(f"{change.name} ({change.num_units:,})", change) for change in shown]
            title = pair_title(pair, names, pairs)
            block = _block(title, names[pair.baseline], names[pair.model], changes, note)
            blocks.append(block)
    return blocks


def pair_title(
    pair: PairComparison, names: Mapping[str, str], among: Sequence[PairComparison] = ()
) -> str:
    """Return task and data of a pair, and its model if the pairs have several."""
    title = f"{pair.task} on {names[pair.data]}" if pair.task else names[pair.data]
    several = len({other.model for other in among}) > 1
    return f"{names[pair.model]}: {title}" if several else title


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Remove the folders that all names share.

    Examples:
        >>> short_names(["runs/a/last.ckpt", "runs/b/last.ckpt"])
        {'runs/a/last.ckpt': 'a/last.ckpt', 'runs/b/last.ckpt': 'b/last.ckpt'}
        >>> short_names(["data/flowers"])
        {'data/flowers': 'flowers'}
    """
    distinct = list(dict.fromkeys(names))
    parents = [name.rstrip("/").rpartition("/")[0] for name in distinct]
    absolute = len({parent.startswith("/") for parent in parents}) == 1
    shared = os.path.commonpath(parents) if parents and absolute else ""
    return {name: name.removeprefix(shared).strip("/") or name for name in distinct}


def _block(
    title: str, baseline: str, model: str, changes: Sequence[tuple[str, Change]], note: str = ""
) -> Block:
    """Return a table; shares have one scale of the bars, each other metric has its own."""
    widest = max((_extent(change) for _, change in changes if change.is_share), default=0.0)
    rows = [
        _row(name, change, widest if change.is_share else _extent(change))
        for name, change in changes
    ]
    return Block(title, baseline, model, rows, f"{100 * widest:.1f}" if widest else "", note)


def _row(name: str, change: Change, extent: float) -> Row:
    return Row(
        name,
        _number(change, change.baseline),
        _number(change, change.model),
        _number(change, change.difference, "+"),
        p_value_text(change.corrected_p_value),
        change.verdict,
        _bar(change, extent),
    )


def _number(change: Change, estimate: Estimate, sign: str = "") -> Number:
    value, ends = estimate_texts(change, estimate, sign)
    between = " to " if sign else "–"
    return Number(value.replace("-", _MINUS), between.join(ends).replace("-", _MINUS))


def _extent(change: Change) -> float:
    ends = change.difference.interval or (change.difference.value,)
    return max((abs(end) for end in ends if math.isfinite(end)), default=0.0)


def _bar(change: Change, extent: float) -> tuple[float, float, float] | None:
    """Place the interval of a difference; zero is in the middle."""
    if change.difference.interval is None or extent == 0:
        return None
    low, high = change.difference.interval
    values = (low, change.difference.value, high)
    lower, middle, upper = (round(50 + 48 * value / extent, 2) for value in values)
    return lower, middle, upper
