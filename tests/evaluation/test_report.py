"""The report as text: escaping, what is left out, figures, charts, files."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from clipkit.errors import DataError
from clipkit.evaluation.report import (
    Chart,
    Confusion,
    ReportData,
    Result,
    Series,
    charts_from_history,
    read_metrics_csv,
    render_report,
    write_report,
)
from clipkit.evaluation.report.charts import render_chart, thin_out
from clipkit.evaluation.report.confusion import most_confused, render_confusion
from clipkit.evaluation.report.gallery import data_uri
from clipkit.evaluation.report.markup import Markup, tag
from clipkit.evaluation.report.numbers import compact, nice_ticks
from clipkit.evaluation.report.results import render_headlines, render_tables
from tests.evaluation.report_data import HOSTILE, full_report, picture

VOID = {"meta", "link", "img", "input", "br"}


class Balanced(HTMLParser):
    """Fails on an element that is closed twice, never, or in the wrong place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, name, attributes):
        self.ids += [value for key, value in attributes if key == "id"]
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open, f"</{name}> closes nothing"
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text.append(data)


def parse(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_full_page_is_well_formed_with_unique_anchors():
    parser = parse(render_report(full_report()))

    assert len(parser.ids) == len(set(parser.ids))
    assert {"results", "curves", "gallery", "confusion", "health", "run"} <= set(parser.ids)


def test_text_of_the_user_is_never_markup():
    page = render_report(full_report())

    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert HOSTILE.strip() in "".join(parse(page).text)


def test_page_names_no_address_outside_itself():
    page = render_report(full_report())

    addresses = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "default-src &#x27;none&#x27;" in page


def test_pictures_travel_inside_the_page_unchanged():
    shown = full_report().text_queries[0].hits[0].picture
    page = render_report(full_report())

    uri = re.search(r'src="data:image/webp;base64,([^"]+)"', page)
    assert uri is not None
    assert base64.b64decode(uri[1]) == shown.data
    assert data_uri(picture(0)) in page


def test_empty_parts_are_left_out():
    parser = parse(render_report(ReportData("Nothing yet")))

    assert set(parser.ids) == {"main", "tip"}
    assert "Nothing yet" in parser.text


def test_gallery_with_one_direction_only_has_one_tab():
    data = full_report()
    data.image_queries = []

    parser = parse(render_report(data))

    assert "tab-texts" in parser.ids
    assert "tab-pictures" not in parser.ids


def test_headlines_take_the_first_result_and_compare_with_the_first_baseline():
    results = [
        Result("Chance", {"top1": 0.1}, is_baseline=True),
        Result("Mine", {"top1": 0.512, "text_to_image/recall_at_1": 0.25}),
    ]

    text = "".join(parse(render_headlines(results)).text)

    assert "25.0" in text
    assert "51.2" in text
    assert "Chance 10.0 %" in text


def test_headlines_without_a_known_metric_are_left_out():
    assert render_headlines([Result("Mine", {"odd": 0.3})]) == ""


def test_every_metric_has_a_cell_and_a_gap_is_no_zero():
    results = [
        Result("A", {"text_to_image/recall_at_1": 0.5, "image_to_text/recall_at_1": 0.25}),
        Result("B", {"text_to_image/recall_at_1": 0.125, "l2": 0.001}),
    ]

    tables = render_tables(results)

    retrieval, other = ("".join(parse(table).text) for table in tables)
    assert "50.0" in retrieval
    assert "25.0" in retrieval
    assert "12.5" in retrieval
    assert "–" in retrieval
    assert "0.001" in other
    assert "A" not in other.replace("All", "")


def test_chart_places_points_by_value():
    chart = render_chart(Chart("Loss", [Series("loss", [(0, 4.0), (50, 2.0), (100, 0.0)])]))

    points = re.search(r'points="([^"]+)"', chart)
    assert points is not None
    assert points[1].split() == ["0.0,0.0", "500.0,500.0", "1000.0,1000.0"]


def test_chart_of_a_constant_or_a_single_step_is_drawn():
    for points in (
        [(0.0, 0.001), (9.0, 0.001)],
        [(5.0, 2.0), (5.0, 2.0)],
        [(0.0, 0.0), (1.0, 0.0)],
    ):
        drawn = render_chart(Chart("Flat", [Series("flat", points)]))
        assert "nan" not in drawn
        assert "inf" not in drawn


def test_thinning_keeps_ends_and_mean():
    points = [(float(i), float(i % 7)) for i in range(5000)]

    thin = thin_out(points, limit=100)

    assert len(thin) <= 100
    assert thin[0] == points[0]
    assert thin[-1] == points[-1]
    assert sum(v for _, v in thin) / len(thin) == pytest.approx(3, abs=0.2)


def test_heat_map_shows_the_most_confused_classes_only():
    counts = [[10 if i == j else 0 for j in range(40)] for i in range(40)]
    counts[30][31] = 7
    counts[2][30] = 3
    confusion = Confusion([f"class {i}" for i in range(40)], counts)

    assert {2, 30, 31} <= set(most_confused(confusion, 24))
    text = "".join(parse(render_confusion(confusion)).text)
    assert "24 of 40 classes" in text
    assert "class 30 taken for class 31" in text
    assert "7 of 17" in text


def test_confusion_without_an_error_or_a_sample_is_drawn():
    text = "".join(parse(render_confusion(Confusion(["a", "b"], [[3, 0], [0, 0]]))).text)

    assert "No picture was taken for another class." in text


def test_history_groups_columns_and_leaves_none_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,step,train/loss,train/contrastive,lr-AdamW,val/text_to_image/recall_at_1,"
        "val/text_to_image/recall_at_10,odd\n"
        "0,10,2.0,1.5,0.1,,,5\n0,20,1.0,0.5,0.2,,,6\n0,20,,,,0.25,0.5,\n1,40,nan,0.4,0.1,0.5,0.75,7\n"
    )

    charts = {chart.title: chart for chart in read_metrics_csv(path)}

    assert list(charts) == ["Text to picture", "Loss", "Learning rate", "odd"]
    assert charts["Text to picture"].is_share
    names = [series.name for series in charts["Text to picture"].series]
    assert names == ["at 1", "at 10"]
    assert charts["Text to picture"].series[0].points == [(20, 0.25), (40, 0.5)]
    losses = {series.name: series.points for series in charts["Loss"].series}
    assert losses == {"loss": [(10, 2), (20, 1)], "contrastive": [(10, 1.5), (20, 0.5), (40, 0.4)]}
    assert charts["odd"].series[0].points == [(10, 5), (20, 6), (40, 7)]


def test_history_splits_what_one_chart_cannot_hold():
    keys = [
        f"{name}/text_to_image/recall_at_{k}"
        for name in ("old", "new_set", "far")
        for k in (1, 5, 10)
    ]

    charts = charts_from_history({"step": step, **dict.fromkeys(keys, 0.5)} for step in (1, 2))
    small = charts_from_history({"step": step, **dict.fromkeys(keys[:6], 0.5)} for step in (1, 2))

    titles = ["Text to picture, old", "Text to picture, new set", "Text to picture, far"]
    assert [chart.title for chart in charts] == titles
    assert [series.name for series in charts[1].series] == ["at 1", "at 5", "at 10"]
    assert [series.name for series in small[0].series] == [
        f"{name} at {k}" for name in ("old", "new set") for k in (1, 5, 10)
    ]


def test_history_shows_the_wait_for_data_in_percent():
    rows = [{"step": step, "throughput/data_wait_share": 0.25} for step in (1, 2)]
    assert charts_from_history(rows)[0].is_share


def test_history_ignores_what_was_logged_once():
    assert charts_from_history([{"step": 1, "train/loss": 3.0}]) == []


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n"])
def test_history_that_cannot_be_read_says_so(tmp_path, content):
    path = tmp_path / "metrics.csv"
    if content is not None:
        path.write_text(content)

    with pytest.raises(DataError, match=r"metrics\.csv"):
        read_metrics_csv(path)


def test_report_replaces_the_old_one_and_leaves_no_draft(tmp_path):
    path = tmp_path / "deep" / "report.html"
    write_report(path, ReportData("First"))

    returned = write_report(path, ReportData("Second"))

    assert returned == path
    assert "Second" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_report_that_cannot_be_written_says_where(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(DataError, match=r"file.report\.html: cannot write"):
        write_report(tmp_path / "file" / "report.html", ReportData("x"))


def test_tag_escapes_text_and_attributes_but_not_markup():
    made = tag("a", {"title": '<"', "hidden": True, "open": False}, "<b>", Markup("<i></i>"))

    assert made == '<a title="&lt;&quot;" hidden>&lt;b&gt;<i></i></a>'


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
