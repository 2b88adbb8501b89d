"""The command ``clipkit evaluate build``, and ``clipkit evaluate`` on what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipkit.cli.main import build_parser, main
from tests.helpers.planted_copies import write_table


def test_build_then_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table, out = write_table(tmp_path / "source", 20, 4), tmp_path / "own"
    words = [
        "evaluate", "build", str(table), str(out), "--test-size", "8",
        "--stratify", "json:language",
        "--group", "json:patient", "--license", "mit", "--title", "Drawings", "--negatives", "2",
        "--language-field", "json:language", "--num-workers", "2", "--caption-similarity", "none",
    ]  # fmt: skip
    assert main(words) == 0
    assert "data card:" in capsys.readouterr().err
    facts = json.loads((out / "statistics.json").read_text())
    assert facts["split_options"]["groups"] == ["json:patient"]
    assert facts["duplicate_options"]["caption_similarity"] is None
    assert (out / "README.md").read_text().count("Drawings") >= 2
    assert main(words) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_the_command_evaluate_keeps_its_options():
    args = build_parser().parse_args(["evaluate", "--model", "ViT-B-32", "--data", "build"])
    assert args.data == "build"
    args = build_parser().parse_args(["evaluate", "build", "a", "b"])
    assert (args.source, str(args.out), args.test_size) == ("a", "b", 0.2)


@pytest.mark.parametrize(("text", "size"), [("0.25", 0.25), ("1.0", 1.0), ("1", 1), ("40", 40)])
def test_a_share_has_a_point(text, size):
    args = build_parser().parse_args(["evaluate", "build", "a", "b", "--test-size", text])
    assert args.test_size == size
    assert type(args.test_size) is type(size)


@pytest.mark.parametrize("option", ["--test-size=many", "--image-distance=far"])
def test_wrong_numbers_are_named(option, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["evaluate", "build", "a", "b", option])
    assert "expected a" in capsys.readouterr().err


def test_a_missing_source_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "build", str(tmp_path / "none.csv"), str(tmp_path / "own")]) == 2
    assert "none.csv" in capsys.readouterr().err
