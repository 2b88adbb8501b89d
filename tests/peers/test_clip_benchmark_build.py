"""CLIP_benchmark's own ``build`` reads a suite's results, and writes the same table."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path

import pytest

from clipkit.evaluation import Suite, SuiteEntry, SuiteOptions, run_suite
from clipkit.models import save_encoder
from tests.helpers.evaluation_data import tiny_encoder, write_layout

cli = pytest.importorskip("clip_benchmark.cli")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return sorted(csv.DictReader(file), key=lambda row: (row["model"], row["dataset"]))


def test_build_makes_the_same_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_encoder(tiny_encoder(), tmp_path / "model")
    entries = (
        SuiteEntry("wds/pairs", str(write_layout(tmp_path / "pairs", (7,)))),
        SuiteEntry("wds/vtab/classes", "pairs", task="zero-shot", language="de"),
        SuiteEntry("probe", str(write_layout(tmp_path / "probe", (6,))), task="linear-probe"),
    )
    write_layout(tmp_path / "probe", (36,), split="train", start=50)
    run = run_suite(Suite("mine", entries), ["model"], "out", SuiteOptions(device="cpu"))
    assert run.num_measured == 3

    cli.main_build(Namespace(files=["out"], output="theirs.csv"))

    ours, theirs = rows(Path("out/results.csv")), rows(Path("theirs.csv"))
    assert ours == theirs
    assert set(ours[0]) == set(theirs[0])
    assert len(ours) == 3
