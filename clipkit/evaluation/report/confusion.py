"""The heat map of classes taken for one another, and the worst pairs in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clipkit.evaluation.report.data import Confusion
from clipkit.evaluation.report.markup import Markup, join, tag
from clipkit.evaluation.report.numbers import grouped, percent

_MAX_CLASSES: Final = 24
_MAX_PAIRS: Final = 8
_STRONG: Final = 0.5
"""Share from which a cell is so dark that its figure is set in white."""


def render_confusion(confusion: Confusion) -> Markup:
    """Heat map (rows: the true class; shares of the row) beside the most frequent confusions."""
    chosen = most_confused(confusion, _MAX_CLASSES)
    parts = [
        tag("div", {"class": "heat-and-pairs"}, _heat_map(confusion, chosen), _pairs(confusion))
    ]
    num_classes = len(confusion.class_names)
    if len(chosen) < num_classes:
        parts.append(
            tag("p", {"class": "note"}, f"The map shows the {len(chosen)} of {num_classes} classes "
                "with the most errors; the list counts all of them.")
        )  # fmt: skip
    return join(parts)


def most_confused(confusion: Confusion, limit: int) -> list[int]:
    """The classes that take part in the most errors, at most ``limit``, in their own order."""
    counts = confusion.counts
    size = len(counts)
    errors = [sum(counts[i][j] + counts[j][i] for j in range(size) if j != i) for i in range(size)]
    worst = sorted(range(size), key=lambda index: (-errors[index], index))[:limit]
    return sorted(worst)


def _heat_map(confusion: Confusion, chosen: Sequence[int]) -> Markup:
    corner = tag("th", {"scope": "col"}, tag("span", {"class": "quiet"}, "True class"))
    heads = [
        tag("th", {"scope": "col", "data-tip": confusion.class_names[index]},
            tag("span", {"aria-hidden": "true"}, str(number)),
            tag("span", {"class": "quiet"}, f"taken for {confusion.class_names[index]}"))
        for number, index in enumerate(chosen, 1)
    ]  # fmt: skip
    rows = [
        tag("tr", None, _row_head(confusion, index, number),
            *[_cell(confusion, index, other) for other in chosen])
        for number, index in enumerate(chosen, 1)
    ]  # fmt: skip
    return tag(
        "table",
        {"class": "heat dense" if len(chosen) > 12 else "heat"},
        tag(
            "caption", None, "Row: the true class. Column: what the model said, percent of the row"
        ),
        tag("thead", None, tag("tr", None, corner, *heads)),
        tag("tbody", None, *rows),
    )


def _row_head(confusion: Confusion, index: int, number: int) -> Markup:
    name = confusion.class_names[index]
    return tag("th", {"scope": "row", "title": name},
               tag("span", {"aria-hidden": "true", "class": "number"}, str(number)),
               tag("span", {"class": "name"}, name))  # fmt: skip


def _cell(confusion: Confusion, true: int, said: int) -> Markup:
    count, total = confusion.counts[true][said], sum(confusion.counts[true])
    share = count / total if total else 0.0
    names = confusion.class_names
    what = f"{names[true]}: right" if true == said else f"{names[true]} taken for {names[said]}"
    attributes = {
        "class": ("right" if true == said else "wrong") + (" strong" if share >= _STRONG else ""),
        "style": f"--share:{100 * share**0.7:.0f}%",
        "data-tip": f"{what}, {grouped(count)} of {grouped(total)} ({percent(share, 0)} %)",
    }
    return tag("td", attributes, tag("span", None, percent(share, 0) if share >= 0.005 else ""))


def _pairs(confusion: Confusion) -> Markup:
    names, counts = confusion.class_names, confusion.counts
    errors = [
        (counts[i][j], sum(counts[i]), i, j)
        for i in range(len(counts))
        for j in range(len(counts))
        if i != j and counts[i][j] > 0
    ]
    errors.sort(key=lambda error: (-error[0], error[2], error[3]))
    items = [
        tag("li", None,
            tag("span", {"class": "pair"}, names[i], tag("b", None, " taken for "), names[j]),
            tag("span", {"class": "times"}, f"{grouped(count)} of {grouped(total)}"))
        for count, total, i, j in errors[:_MAX_PAIRS]
    ]  # fmt: skip
    if not items:
        return tag("p", {"class": "note"}, "No picture was taken for another class.")
    return tag("div", {"class": "pairs"}, tag("h3", None, "Most frequent confusions"),
               tag("ol", None, *items))  # fmt: skip
