"""``clipkit compare`` from its arguments to its files."""

import json

import pytest

from clipkit.cli.main import main
from tests.helpers.records import classified, write_record, write_suite_record


@pytest.fixture
def two(tmp_path):
    first = write_record(tmp_path / "before.json", classified(0.5))
    return [str(first), str(write_record(tmp_path / "after.json", classified(0.8, seed=1)))]


def test_a_comparison_is_printed_and_written(two, tmp_path, capsys):
    output, report = tmp_path / "out/comparison.json", tmp_path / "report"
    words = ["compare", *two, "--replicates", "200", "--output", str(output)]
    assert main([*words, "--report", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "after against before on data/animals: 200 images" in printed
    assert "better" in printed
    content = json.loads(output.read_text())
    assert content["replicates"] == 200
    assert content["pairs"][0]["metrics"][0]["name"] == "top1"
    assert "Top-1" in (report / "comparison.html").read_text()
    assert [path.name for path in report.iterdir()] == ["comparison.html"]


def test_suites_are_one_table(tmp_path, capsys):
    for dataset in ("cifar10", "pets"):
        write_suite_record(tmp_path / "a", "small", dataset, classified(0.5))
        write_suite_record(tmp_path / "b", "large", dataset, classified(0.7, seed=4))
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--replicates", "200"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "cifar10" in printed
    assert "pets" in printed


def test_errors_are_one_line(two, tmp_path, capsys):
    assert main(["compare", two[0], str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.startswith("clipkit: error: ")
    assert main(["compare", *two, "--replicates", "3"]) == 2
    assert "replicates: expected at least 100, got 3" in capsys.readouterr().err
    assert main(["compare", *two, "--output", str(tmp_path)]) == 2
    assert "expected a file, got the folder" in capsys.readouterr().err
