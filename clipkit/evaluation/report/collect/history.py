"""Arrange the rows of a logger in charts."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from clipkit.errors import DataError
from clipkit.evaluation.report.content import MAX_SERIES, Chart, Series

_COUNTERS: Final = frozenset({"step", "epoch"})
_DIRECTION: Final = re.compile(r"(text_to_image/|image_to_text/)?recall_(?=at_)")


@dataclass(frozen=True, slots=True)
class _Rule:
    """Columns that share a chart, and how the chart is printed."""

    title: str
    pattern: str
    note: str = ""
    is_share: bool = False

    def match(self, name: str) -> re.Match[str] | None:
        return re.search(self.pattern, name, re.IGNORECASE)


_RULES: Final = (
    _Rule("Text to image", r"text_to_image/recall_at_\d+$", "recall, %", is_share=True),
    _Rule("Image to text", r"image_to_text/recall_at_\d+$", "recall, %", is_share=True),
    _Rule("Classification", r"(top\d+|mean_per_class_recall|accuracy)$", "%", is_share=True),
    _Rule("Effective rank", r"health/effective_rank_", "RankMe: number of dimensions in use"),
    _Rule("Health of the embeddings", r"health/"),
    _Rule("Loss", r"(^|[/_])(loss|contrastive|label|sigmoid|distillation)([/_](step|epoch))?$"),
    _Rule("Loss, weighted", r"_weighted$"),
    _Rule("Samples of each term", r"_num_samples$", "of all ranks, per step"),
    _Rule("Logit scale", r"logit_scale$"),
    _Rule("Learning rate", r"(^|[/_-])(lr|learning_rate)"),
    _Rule("Gradient norm", r"grad(ient)?_norm"),
    _Rule("Throughput", r"(samples|images)_(per|a)_second", "samples per second"),
    _Rule("Waiting for data", r"(data_wait|wait)_share$", "share of time, %", is_share=True),
)


def read_metrics_csv(path: Path | str) -> list[Chart]:
    """Read the charts of a ``metrics.csv`` as written by Lightning's CSVLogger.

    Args:
        path: A CSV file with a column "step"; empty cells mean "not logged at this step".

    Returns:
        Charts of related columns, retrieval first and the waiting time last.

    Raises:
        DataError: If the file is missing, has no column "step", or holds no number.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path}: cannot read the history of the run: {error.strerror}") from error
    if not rows or "step" not in rows[0]:
        raise DataError(f'{path}: expected a CSV table with a column "step" and at least one row')
    return charts_from_history(
        {name: value for name, text in row.items() if (value := _number(text)) is not None}
        for row in rows
    )


def charts_from_history(rows: Iterable[Mapping[str, float]]) -> list[Chart]:
    """Arrange logged values in charts.

    Args:
        rows: Logged values in the order of steps, such as {"step": 10, "train/loss": 3.1}; a row
            may lack columns, and values that are not finite are skipped.

    Returns:
        One chart for each group of related columns, then one for each other column that was logged
        more than once.
    """
    columns: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in _COUNTERS and "step" in row and math.isfinite(value):
                columns.setdefault(name, []).append((float(row["step"]), float(value)))
    columns = {name: points for name, points in columns.items() if len(points) > 1}
    charts = []
    for rule in _RULES:
        names = [name for name in columns if rule.match(name)]
        charts += _charts(rule, {name: columns.pop(name) for name in names})
    return charts + [Chart(name, [Series(name, points)]) for name, points in columns.items()]


def _charts(rule: _Rule, columns: Mapping[str, list[tuple[float, float]]]) -> list[Chart]:
    """Return one chart, or one for each prefix of the names if there are too many lines."""
    if not columns:
        return []
    groups: dict[str, list[str]] = {}
    for name in columns:
        match = rule.match(name)
        assert match is not None
        head = name[: match.start()].strip("/_") if len(columns) > MAX_SERIES else ""
        groups.setdefault(head, []).append(name)
    charts = []
    for head, names in groups.items():
        title = f"{rule.title}, {' '.join(re.split('[/_]', head))}" if head else rule.title
        series = [Series(short, columns[name]) for name, short in short_names(names).items()]
        charts.append(Chart(title, series, is_share=rule.is_share, note=rule.note))
    return charts


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Remove the prefix that all names share.

    Examples:
        >>> short_names(["val/recall_at_1", "val/recall_at_10"])
        {'val/recall_at_1': 'at 1', 'val/recall_at_10': 'at 10'}
    """
    parts = {name: re.split(r"[/_]", _DIRECTION.sub("", name)) for name in names}
    if len(parts) == 1:
        return {name: " ".join(words) for name, words in parts.items()}
    columns = zip(*parts.values(), strict=False)
    shared = sum(1 for _ in takewhile(lambda w: len(set(w)) == 1 and w[0] != "at", columns))
    return {name: " ".join(words[shared:]) or name for name, words in parts.items()}


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
