"""Positions, selections and number formats, before a template prints them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from clipkit.evaluation.report import Chart, Confusion, Result, Series
from clipkit.evaluation.report.numbers import compact, nice_ticks
from clipkit.evaluation.report.sections.charts import bar_plot, histogram, line_plot, thin_out
from clipkit.evaluation.report.sections.confusion import heat_map, most_confused
from clipkit.evaluation.report.sections.results import headlines, listings, tables


def test_headlines_take_the_first_result_and_compare_with_the_first_baseline():
    results = [
        Result("Chance", {"top1": 0.1}, is_baseline=True),
        Result("Model", {"top1": 0.512, "text_to_image/recall_at_1": 0.25}),
    ]

    chosen = headlines(results)

    assert chosen is not None
    assert (chosen.measured, chosen.baseline) == (results[1], results[0])
    assert [(figure.value, figure.baseline) for figure in chosen.figures] == [
        (0.25, None),
        (0.512, 0.1),
    ]


def test_headlines_without_a_usual_metric_are_left_out():
    assert headlines([Result("Model", {"odd": 0.3})]) is None
    assert headlines([Result("Chance", {"top1": 0.3}, is_baseline=True)]) is None


def test_every_metric_is_in_exactly_one_table():
    keys = ["text_to_image/recall_at_1", "image_to_text/recall_at_5", "top1", "top5", "l2", "odd"]
    results = [Result(key, {key: 0.5}) for key in keys]

    arranged = tables(results)
    listed = listings(results)

    columns = [key for table in arranged for _, group in table.groups for key in group]
    assert len(columns) == len(set(columns))
    assert [[row.name for row in table.rows] for table in arranged] == [keys[:2], keys[2:4]]
    assert [row[0] for listing in listed for row in listing.rows] == ["L2", "Odd"]
    assert tables([]) == []
    assert listings([]) == []


def test_other_metrics_of_both_directions_are_side_by_side():
    metrics = {
        "image_to_text/map_at_10": 0.25, "text_to_image/map_at_10": 0.5, "rsum": 323.0,
        "text_to_image/r_precision": 0.125, "mean_per_class_recall": 0.1, "macro_recall": 0.1,
    }  # fmt: skip
    result = Result("A", metrics, intervals={"text_to_image/map_at_10": (0.4, 0.61)})

    directed, others = listings([result])

    assert directed.columns == ["Text to image", "Image to text"]
    assert directed.rows == [
        ("mAP at 10", [("0.5", "0.4–0.61"), ("0.25", "")]),
        ("R-precision", [("0.125", ""), ("", "")]),
    ]
    assert (others.columns, others.rows) == (
        ["Value"],
        [("Sum of recalls (rsum)", [("323", "")])],
    )


def test_truncated_embeddings_have_a_table_from_narrow_to_wide():
    ways = ("text_to_image", "image_to_text")
    metrics = {f"{prefix}{way}/recall_at_1": 0.5 for way in ways
               for prefix in ("", "width_128/", "width_64/")}  # fmt: skip

    arranged = tables([Result("Model", metrics), Result("Other", {"text_to_image/recall_at_1": 1})])

    assert [table.title for table in arranged] == [
        "Retrieval, recall in percent",
        "Recall by number of components, percent",
    ]
    titles = [(title, list(columns.values())) for title, columns in arranged[1].groups]
    assert titles == [
        ("Text to image, R@1", ["64", "128", "all"]),
        ("Image to text, R@1", ["64", "128", "all"]),
    ]


def test_chart_places_points_by_value():
    plot = line_plot(Chart("Loss", [Series("loss", [(0, 4.0), (50, 2.0), (100, 0.0)])]))

    assert plot.shapes[0].points == [(0, 0), (500, 500), (1000, 1000)]
    assert plot.y_labels == [(1000, "0"), (750, "1"), (500, "2"), (250, "3"), (0, "4")]
    assert plot.description == "Loss. loss: from 4 at step 0 to 0 at step 100."


def test_shares_start_at_zero_unless_asked_otherwise():
    chart = Chart("Accuracy", [Series("top1", [(0, 0.82), (1, 0.86)])], is_share=True)

    assert line_plot(chart).y_labels[0] == (1000, "0")
    assert line_plot(chart, from_zero=False).y_labels[0] == (1000, "82")


@pytest.mark.parametrize(
    "points",
    [[(0.0, 0.001), (9.0, 0.001)], [(5.0, 2.0), (5.0, 2.0)], [(0.0, 0.0), (1.0, 0.0)]],
)
def test_chart_of_a_constant_or_a_single_step_has_finite_positions(points):
    plot = line_plot(Chart("Flat", [Series("flat", points)]))

    places = [number for point in plot.shapes[0].points for number in point]
    assert all(map(math.isfinite, places))


def test_thinning_keeps_ends_and_mean():
    points = [(float(i), float(i % 7)) for i in range(5000)]

    thin = thin_out(points, limit=100)

    assert len(thin) <= 100
    assert thin[0] == points[0]
    assert thin[-1] == points[-1]
    assert sum(v for _, v in thin) / len(thin) == pytest.approx(3, abs=0.2)


def test_bars_are_as_high_as_their_counts():
    plot = bar_plot("Widths", [1, 2, 2, 4])

    tops = [min(y for _, y in shape.points) for shape in plot.shapes]
    assert tops == [500, 0, 1000, 500]
    assert [shape.tip for shape in plot.shapes] == ["1: 1", "2: 2", "3: 0", "4: 1"]
    assert [text for _, text in plot.x_labels] == ["1", "4"]
    assert [text for _, text in bar_plot("One", [3]).x_labels] == ["3"]


def test_histograms_lose_nothing():
    values = [5, 5, 6, 100, 31, 77]
    bins = histogram(values, 10)
    assert sum(count for _, _, count in bins) == 6
    assert all(sum(low <= v <= high for v in values) == count for low, high, count in bins)
    assert histogram([]) == []
    assert histogram([3]) == [(3, 3, 1)]


def test_heat_map_shows_the_most_confused_classes_only():
    counts = [[10 if i == j else 0 for j in range(40)] for i in range(40)]
    counts[30][31] = 7
    counts[2][30] = 3
    confusion = Confusion([f"class {i}" for i in range(40)], counts)

    shown = heat_map(confusion)

    assert {2, 30, 31} <= set(most_confused(confusion, 24))
    assert (len(shown.rows), shown.num_classes) == (24, 40)
    assert all(len(cells) == 24 for _, cells in shown.rows)
    pairs = [(pair.true, pair.predicted, pair.count, pair.total) for pair in shown.pairs]
    assert pairs == [("class 30", "class 31", 7, 17), ("class 2", "class 30", 3, 13)]


def test_cells_are_shares_of_their_row():
    shown = heat_map(Confusion(["a", "b"], [[3, 1], [0, 0]]))

    assert [[cell.share for cell in cells] for _, cells in shown.rows] == [[0.75, 0.25], [0, 0]]
    assert [[cell.is_right for cell in cells] for _, cells in shown.rows] == [
        [True, False],
        [False, True],
    ]
    assert shown.rows[0][1][1].tip == "a: predicted as b, 1 of 4 (25 %)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00025, "0.00025"),
        (1e-5, "1e-5"),
        (14.2857, "14.3"),
        (-2300, "-2.3k"),
        (5e6, "5M"),
    ],
)
def test_compact_figures(value, text):
    assert compact(value) == text


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.31, 0.32), (-5, 12345), (7, 7), (0, 0), (1e-6, 3e-6)]
)
def test_ticks_span_the_values_in_even_round_steps(low, high):
    ticks = nice_ticks(low, high)

    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 7
    steps = [b - a for a, b in pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-6)
