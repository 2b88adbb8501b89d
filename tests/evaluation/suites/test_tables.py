"""Tables of results: columns, missing values, and both kinds of manifest."""

from __future__ import annotations

import csv
import sys

import pyarrow.parquet

from clipkit.evaluation.suites.tables import write_benchmark_csv, write_manifest

ROWS = [
    {"file": "a.json", "model": "m", "acc1": 0.5, "num_samples": 3},
    {"model": "m, n", "error": "no such\nfile"},
]


def test_the_manifest_is_parquet_or_csv_and_never_both(tmp_path, monkeypatch):
    parquet = write_manifest(tmp_path, ROWS)
    rows = pyarrow.parquet.read_table(parquet).to_pylist()
    assert [row["acc1"] for row in rows] == [0.5, None]
    assert [row["num_samples"] for row in rows] == [3, None]

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    table = write_manifest(tmp_path, ROWS)
    with table.open(newline="") as file:
        again = list(csv.DictReader(file))
    assert list(again[0]) == list(rows[0])
    assert (again[0]["acc1"], again[1]["acc1"], again[1]["error"]) == ("0.5", "", "no such\nfile")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.csv"]

    monkeypatch.undo()
    write_manifest(tmp_path, ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]


def test_columns_of_clip_benchmark_come_first(tmp_path):
    names = {"dataset": "d", "model": "m", "pretrained": "p", "task": "t", "language": "en"}
    path = tmp_path / "results.csv"
    records = [{**names, "metrics": {"zz": 1.0}}, {**names, "metrics": {"acc1": 0.25, "a": 0.0}}]
    write_benchmark_csv(path, records)
    header, first, second = path.read_bytes().decode().split("\r\n")[:3]
    assert header == "acc1,dataset,model,pretrained,task,model_fullname,a,language,zz"
    assert first == ",d,m,p,t,m p,,en,1.0"
    assert second == "0.25,d,m,p,t,m p,0.0,en,"
