"""Charts from the rows of a logger."""

from __future__ import annotations

import pytest

from clipkit.errors import DataError
from clipkit.evaluation.report import charts_from_history, read_metrics_csv


def test_history_groups_columns_and_leaves_none_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,step,train/loss,train/contrastive,lr-AdamW,val/text_to_image/recall_at_1,"
        "val/text_to_image/recall_at_10,odd\n"
        "0,10,2.0,1.5,0.1,,,5\n0,20,1.0,0.5,0.2,,,6\n0,20,,,,0.25,0.5,\n1,40,nan,0.4,0.1,0.5,0.75,7\n"
    )

    charts = {chart.title: chart for chart in read_metrics_csv(path)}

    assert list(charts) == ["Text to image", "Loss", "Learning rate", "odd"]
    assert charts["Text to image"].is_share
    names = [series.name for series in charts["Text to image"].series]
    assert names == ["at 1", "at 10"]
    assert charts["Text to image"].series[0].points == [(20, 0.25), (40, 0.5)]
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

    titles = ["Text to image, old", "Text to image, new set", "Text to image, far"]
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
