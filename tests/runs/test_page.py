"""The page of learning curves, also of runs that are being written."""

from dataclasses import replace
from pathlib import Path

import pytest

from clipkit.runs import RunRecord, write_run, write_runs_page
from clipkit.runs.differences import short_names
from clipkit.runs.page import read_curves, render_runs_page
from tests.helpers.html import parse
from tests.runs.test_record import record


@pytest.fixture
def two(tmp_path):
    runs = []
    for name, scale in (("first", 1.0), ("second", 0.5)):
        folder = tmp_path / name
        run = record(folder, state="finished", config={"model.lr": scale})
        write_run(run)
        rows = "".join(f"{step},{scale / (step + 1)},\n" for step in range(20))
        (folder / "metrics.csv").write_text(f"step,train/loss,val/top1\n{rows}20,,0.5\n30,,0.6\n")
        runs.append(run)
    return runs


def test_every_metric_is_a_chart_with_a_line_per_run(two, tmp_path):
    path = write_runs_page(tmp_path / "out/runs.html", two)
    page = path.read_text()
    for text in (
        "first",
        "second",
        "train/loss",
        "val/top1",
        "model.lr",
        "2 runs, 0 of them running",
    ):
        assert text in page
    assert page.count("<figure") == 2
    assert 'http-equiv="refresh"' not in page
    assert render_runs_page(two, ["val/top1"]).count("<figure") == 1


def test_the_page_loads_itself_again_while_a_run_is_going(two):
    page = render_runs_page([replace(two[0], state="running"), two[1]])
    assert '<meta http-equiv="refresh" content="15">' in page
    assert "1 of them running" in page


@pytest.mark.parametrize(
    "content",
    [
        *("", "step\n", "loss\n1\n", "step,loss\n1", "step,loss\n1,2,3,4\n", "\x00\n\x00"),
        *("step,loss\nx,nan\n", "step,step\n1,1\n", '"step,loss\n1,2'),
    ],
)
def test_odd_logs_have_no_curves(tmp_path, content):
    (tmp_path / "metrics.csv").write_text(content)
    assert all(len(points) <= 1 for points in read_curves(tmp_path).values())
    assert render_runs_page([RunRecord(tmp_path, "running")])


def test_a_row_that_is_being_written_is_left_out(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"step,loss\n1,2.5\n2,2.25\n3,\xff")
    assert read_curves(tmp_path) == {"loss": [(1.0, 2.5), (2.0, 2.25)]}
    assert read_curves(tmp_path / "nothing") == {}


def test_long_logs_are_thinned(tmp_path):
    rows = "".join(f"{step},{step}\n" for step in range(50_000))
    (tmp_path / "metrics.csv").write_text(f"step,loss\n{rows}")
    points = read_curves(tmp_path)["loss"]
    assert len(points) < 2100
    assert points[0] == (0, 0)
    assert points[-1] == (49_999, 49_999)


def test_names_are_as_long_as_needed():
    assert short_names([RunRecord(Path(p), "x") for p in ("r/a", "r/b")]) == ["a", "b"]
    assert short_names([RunRecord(Path(p), "x") for p in ("r/a/run", "r/b/run")]) == [
        "a/run",
        "b/run",
    ]
    assert short_names([]) == []


def test_folder_and_error_of_a_run_need_no_mouse(tmp_path):
    folder = tmp_path / "first"
    parsed = parse(render_runs_page([RunRecord(folder, "failed", error="DataError: no shards")]))
    assert {"DataError: no shards", str(folder)} <= set(parsed.text)
    assert "title" not in parsed.names


def test_names_of_folders_are_text(tmp_path):
    run = RunRecord(tmp_path / "<script>alert(1)</script>", "failed", error="<b>no</b>")
    page = render_runs_page([run])
    assert "<script>alert" not in page
    assert "<b>no</b>" not in page
