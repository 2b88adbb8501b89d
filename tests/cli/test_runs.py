"""``clipkit runs`` from its arguments to what it prints."""

import subprocess
import sys

import pytest

from clipkit.cli.main import main
from clipkit.runs import Best
from tests.runs.test_registry import make_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, batch, top1 in (("a", 32, 0.3), ("b", 64, 0.7)):
        folder = make_run(
            tmp_path / "runs" / name, batch, metrics={"val/top1": top1}, checkpoint="last.ckpt",
            best=Best("val/top1", top1, "best.ckpt"),
        )  # fmt: skip
        (folder / "best.ckpt").touch()
        (folder / "metrics.csv").write_text(f"step,val/top1\n1,0.1\n2,{top1}\n")
    return tmp_path / "runs"


def test_list(runs, capsys):
    assert main(["runs", "list", "--sort", "val/top1"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("runs/b") < printed.index("runs/a")
    assert "0.7" in printed
    assert (
        main(["runs", "list", str(runs), "--where", "data.batch_size=32", "--metric", "model.lr"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "runs/b" not in printed
    assert "0.001" in printed


def test_best(runs, capsys):
    assert main(["runs", "best", "--metric", "val/top1"]) == 0
    assert capsys.readouterr().out == "runs/b/best.ckpt\n"
    assert main(["runs", "best", "--metric", "val/top1", "--mode", "min"]) == 0
    assert capsys.readouterr().out == "runs/a/best.ckpt\n"
    assert main(["runs", "best", "--metric", "val/top1", "--where", "name=a"]) == 0
    assert capsys.readouterr().out == "runs/a/best.ckpt\n"


def test_compare(runs, capsys):
    assert main(["runs", "compare", "runs/a", "runs/b"]) == 0
    printed = capsys.readouterr().out
    assert "data.batch_size" in printed
    assert "val/top1" in printed
    assert "model.lr" not in printed


def test_page(runs, capsys):
    assert main(["runs", "page", "--output", "out/runs.html"]) == 0
    assert "val/top1" in (runs.parent / "out/runs.html").read_text()
    assert main(["runs", "page", "--output", "out/runs.html", "--watch", "5"]) == 0  # none is going
    assert main(["runs", "page", "--output", "one.html", "--last", "1", "--sort", "val/top1"]) == 0
    assert capsys.readouterr().out.endswith("one.html: 1 runs\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "nowhere"], "nowhere: expected a folder of runs"),
        (["list", "--where", "running"], "--where: expected NAME=VALUE"),
        (["best", "--metric", "loss"], "--metric: expected a metric of a run with a checkpoint"),
        (["compare", "runs/a"], "expected at least two folders"),
        (["compare", "runs/a", "runs"], "runs: expected the folder of a run"),
        (["page", "--output", "runs"], "expected a file, got the folder"),
        (["page", "--output", "x.html", "--watch", "0"], "--watch: expected at least 1 second"),
        (["page", "--output", "x.html", "--last", "0"], "--last: expected at least 1"),
    ],
)
def test_errors_are_one_line(runs, capsys, words, message):
    assert main(["runs", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_listing_needs_no_torch(runs):
    code = (
        "import sys; from clipkit.cli.main import main; main(['runs', 'list']);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
