"""Chart and table of groups that were balanced, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clipkit.curation.filters.base import GroupCount
from clipkit.evaluation.report.numbers import grouped, percent
from clipkit.evaluation.report.sections.plot import Frame, Plot, Shape, Values

LISTED: Final = 12
"""Groups of the table; of more groups, a chart shows the distribution."""
_DRAWN: Final = 100
_KEPT, _REMOVED = 0, 1


def group_plot(groups: Sequence[GroupCount]) -> Plot:
    """Place a bar for each group, the largest first: what is kept, and what is removed above it.

    Args:
        groups: The groups, the largest first; at least one.
    """
    shown = groups[:_DRAWN]
    frame = Frame(0, len(shown), 0, 1.06 * max(1, *(group.before for group in shown)))
    shapes = []
    for number, group in enumerate(shown):
        left, right = number + 0.06, number + 0.94
        tip = f"{group.name}: {grouped(group.after)} of {grouped(group.before)} kept"
        for colour, bottom, top in (
            (_KEPT, 0, group.after), (_REMOVED, group.after, group.before)
        ):  # fmt: skip
            if top > bottom:
                corners = [(left, bottom), (left, top), (right, top), (right, bottom)]
                shapes.append(Shape(frame.place(corners), tip, colour=colour))
    rest = len(groups) - len(shown)
    return Plot(
        title="Samples by group",
        kind="bar",
        shapes=shapes,
        x_labels=[],
        y_labels=[],
        description=f"Number of samples of {len(shown)} groups, kept and removed.",
        note=f"the largest first{f'; {grouped(rest)} more' if rest else ''}",
        names=("kept", "removed"),
        colours=(_KEPT, _REMOVED),
    )


def group_table(groups: Sequence[GroupCount]) -> Values:
    """Return the numbers of the largest groups."""
    return Values(
        ("Group", "Before", "After", "Kept, %"),
        [
            [each.name, grouped(each.before), grouped(each.after), _share(each)]
            for each in groups[:LISTED]
        ],
    )


def _share(group: GroupCount) -> str:
    return percent(group.after / group.before) if group.before else "–"
