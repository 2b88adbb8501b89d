"""The history of a run survives stops and new columns."""

from __future__ import annotations

import csv
from pathlib import Path

from clipkit.training import MetricsCsv


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_new_columns_leave_old_rows_empty_there(tmp_path):
    log = MetricsCsv(str(tmp_path / "run"))
    log.log_metrics({"a": 1.5}, 0)
    log.log_metrics({"a": 2.5, "b": 3.0}, 1)
    assert table(tmp_path / "run") == [
        {"step": "0", "a": "1.5", "b": ""},
        {"step": "1", "a": "2.5", "b": "3.0"},
    ]


def test_a_resumed_run_goes_on_and_drops_what_it_does_again(tmp_path):
    first = MetricsCsv(str(tmp_path))
    for step in range(5):
        first.log_metrics({"a": step}, step)
    second = MetricsCsv(str(tmp_path))
    second.log_metrics({"a": 30.0, "c": 1.0}, 3)
    rows = table(tmp_path)
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[-1] == {"step": "3", "a": "30.0", "c": "1.0"}


def test_a_new_run_starts_the_table_anew(tmp_path):
    for value in (1.0, 2.0):
        MetricsCsv(str(tmp_path)).log_metrics({"a": value}, 0)
    assert table(tmp_path) == [{"step": "0", "a": "2.0"}]


def test_half_a_row_of_a_killed_run_is_dropped(tmp_path):
    log = MetricsCsv(str(tmp_path))
    log.log_metrics({"a": 1.0, "b": 2.0}, 0)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("1,3")
    MetricsCsv(str(tmp_path)).log_metrics({"a": 4.0, "b": 5.0}, 2)
    assert [row["step"] for row in table(tmp_path)] == ["0", "2"]
