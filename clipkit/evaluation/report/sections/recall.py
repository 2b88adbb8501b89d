"""Draw recall over the number of considered candidates."""

from __future__ import annotations

from collections.abc import Sequence

from clipkit.evaluation.report.content import Chart, RecallCurve, Series
from clipkit.evaluation.report.numbers import compact, grouped, percent
from clipkit.evaluation.report.sections.charts import line_plot
from clipkit.evaluation.report.sections.plot import Plot, Values


def recall_plot(curves: Sequence[RecallCurve]) -> Plot:
    """Place the curve of each direction, and what guessing would give, over a logarithmic axis."""
    candidates = max(curve.num_candidates for curve in curves)
    ks = [k for k, _ in max((curve.points for curve in curves), key=len)]
    chance = Series("guessing", [(k, min(1.0, k / candidates)) for k in ks], is_reference=True)
    lines = [Series(curve.direction, curve.points) for curve in curves]
    chart = Chart(
        "Recall at k", [*lines, chance], is_share=True, note="%", x_title="k", is_log=len(ks) > 1
    )
    return line_plot(chart)


def rank_table(curves: Sequence[RecallCurve]) -> Values:
    """Return a row of numbers for each direction."""
    columns = ["Direction", "Queries", "Candidates", "Median rank", "Mean rank", "First, %"]
    rows = [
        [
            curve.direction,
            grouped(curve.num_queries),
            grouped(curve.num_candidates),
            f"{curve.median_rank:g}",
            compact(curve.mean_rank),
            percent(curve.points[0][1]),
        ]
        for curve in curves
    ]
    return Values(columns, rows)
