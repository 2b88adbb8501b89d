"""The figures on top and the tables of metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clipkit.evaluation.report.data import Result
from clipkit.evaluation.report.markup import Markup, tag
from clipkit.evaluation.report.numbers import compact, percent

_RECALL: Final = re.compile(r"(text_to_image|image_to_text)/recall_at_(\d+)$")
_HEADLINES: Final = (
    ("text_to_image/recall_at_1", "Text to picture", "recall at 1"),
    ("image_to_text/recall_at_1", "Picture to text", "recall at 1"),
    ("text_to_image/recall_at_10", "Text to picture", "recall at 10"),
    ("image_to_text/recall_at_10", "Picture to text", "recall at 10"),
    ("top1", "Classes", "top-1"),
)
_DIRECTIONS: Final = (
    ("text_to_image", "Text to picture"),
    ("image_to_text", "Picture to text"),
)
_CLASSES: Final = (
    ("top1", "Top-1"),
    ("top5", "Top-5"),
    ("mean_per_class_recall", "Mean of classes"),
)
_MAX_HEADLINES: Final = 4


@dataclass(frozen=True, slots=True)
class _Table:
    """Columns in groups: (heading of the group, [(metric key, heading of the column)])."""

    title: str
    groups: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    is_share: bool = True

    @property
    def keys(self) -> list[str]:
        return [key for _, columns in self.groups for key, _ in columns]


def render_headlines(results: Sequence[Result]) -> Markup:
    """Up to four large figures of the first result, each beside the first baseline's."""
    main = next((result for result in results if not result.is_baseline), None)
    if main is None:
        return Markup()
    baseline = next((result for result in results if result.is_baseline), None)
    tiles: list[Markup] = []
    for key, title, unit in _HEADLINES:
        if key in main.metrics and len(tiles) < _MAX_HEADLINES:
            tiles.append(_headline(title, unit, main.metrics[key], key, baseline))
    if not tiles:
        return Markup()
    note = tag("p", {"class": "headline-note"}, "Measured on ", tag("b", None, main.name),
               f" ({main.note})" if main.note else "")  # fmt: skip
    return tag("div", {"class": "headlines"}, tag("dl", None, *tiles), note)


def render_tables(results: Sequence[Result]) -> list[Markup]:
    """A table for retrieval, one for classification, one for whatever else was measured."""
    tables = _tables({key for result in results for key in result.metrics})
    return [_table(table, results) for table in tables]


def _headline(title: str, unit: str, value: float, key: str, baseline: Result | None) -> Markup:
    versus = ""
    share = min(max(value, 0.0), 1.0)
    mark = Markup()
    if baseline is not None and key in baseline.metrics:
        other = baseline.metrics[key]
        versus = f"{baseline.name} {percent(other, 1 if other >= 0.001 else 2)} %"
        mark = tag("i", {"style": f"left:{100 * min(max(other, 0.0), 1.0):.2f}%"})
    return tag(
        "div",
        {"class": "tile"},
        tag("dt", None, title, " ", tag("span", None, unit)),
        tag("dd", {"class": "figure"}, percent(value), tag("span", None, " %")),
        tag("dd", {"class": "gauge", "aria-hidden": "true"},
            tag("b", {"style": f"width:{100 * share:.2f}%"}), mark),
        tag("dd", {"class": "versus"}, versus),
    )  # fmt: skip


def _tables(keys: set[str]) -> list[_Table]:
    tables = []
    ks = sorted({int(match[2]) for key in keys if (match := _RECALL.match(key))})
    if ks:
        groups = [
            (title, [(f"{name}/recall_at_{k}", f"R@{k}") for k in ks])
            for name, title in _DIRECTIONS
        ]
        tables.append(_Table("Retrieval, recall in percent", groups))
    classes = [(key, title) for key, title in _CLASSES if key in keys]
    if classes:
        tables.append(_Table("Classification, percent", [("", classes)]))
    shown = {key for table in tables for key in table.keys}
    rest = sorted(keys - shown)
    if rest:
        columns = [(key, key.replace("_", " ")) for key in rest]
        tables.append(_Table("Other measures", [("", columns)], is_share=False))
    return tables


def _table(table: _Table, results: Sequence[Result]) -> Markup:
    rows = [result for result in results if any(key in result.metrics for key in table.keys)]
    has_groups = any(title for title, _ in table.groups)
    heads = [
        tag("th", {"scope": "col", "role": "columnheader", "class": _edge(number)}, heading)
        for _, columns in table.groups
        for number, (_, heading) in enumerate(columns)
    ]
    first = tag(
        "th",
        {"scope": "col", "role": "columnheader", "rowspan": 2 if has_groups else 1},
        "Evaluated on",
    )
    groups = [
        tag(
            "th",
            {
                "scope": "colgroup",
                "role": "columnheader",
                "colspan": len(columns),
                "class": "group first",
            },
            tag("span", None, title),
        )
        for title, columns in table.groups
    ]
    header = [tag("tr", {"role": "row"}, first, *groups), tag("tr", {"role": "row"}, *heads)]
    if not has_groups:
        header = [tag("tr", {"role": "row"}, first, *heads)]
    body = [_row(table, result) for result in rows]
    # On narrow screens the rows become grids; the roles keep them rows of a table for readers.
    look = {"class": "results" if has_groups else "results wide", "role": "table",
            "style": f"--columns:{len(table.keys)};--span:{len(table.groups[0][1])}"}  # fmt: skip
    return tag(
        "div",
        {"class": "scroll", "tabindex": 0, "role": "region", "aria-label": table.title},
        tag("table", look, tag("caption", None, table.title),
            tag("thead", {"role": "rowgroup"}, *header),
            tag("tbody", {"role": "rowgroup"}, *body)),
    )  # fmt: skip


def _row(table: _Table, result: Result) -> Markup:
    cells = []
    for _, columns in table.groups:
        for number, (key, _) in enumerate(columns):
            cells.append(_cell(table, result.metrics.get(key), _edge(number)))
    name = tag(
        "th", {"scope": "row", "role": "rowheader"}, result.name, tag("small", None, result.note)
    )
    kind = "baseline" if result.is_baseline else "measured"
    return tag("tr", {"role": "row", "class": kind}, name, *cells)


def _cell(table: _Table, value: float | None, edge: str) -> Markup:
    if value is None:
        dash = tag("span", {"class": "none", "title": "not measured"}, "–")
        return tag("td", {"role": "cell", "class": edge}, dash)
    text = percent(value) if table.is_share else compact(value)
    return tag("td", {"role": "cell", "class": edge}, text)


def _edge(number: int) -> str:
    return "first" if number == 0 else "inner"
