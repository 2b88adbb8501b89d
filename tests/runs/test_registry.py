"""Finding, indexing, filtering, sorting and comparing runs."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from clipkit.errors import ConfigError, DataError
from clipkit.runs import (
    Best,
    RunRecord,
    best_run,
    compare_runs,
    find_runs,
    load_runs,
    parse_filter,
    read_run,
    select_runs,
    write_run,
)
from clipkit.runs.index import INDEX


def make_run(folder, batch_size=64, **values):
    folder.mkdir(parents=True)
    config = {"data": {"batch_size": batch_size}, "model": {"lr": 0.001, "frozen": None}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_run(replace(RunRecord(folder, "finished", metrics={"val/loss": 2.0}), **values))
    return folder


def names(runs):
    return [run.name for run in runs]


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "study/trials/0001")
    make_run(tmp_path / "a/finetuned")
    make_run(tmp_path / ".hidden/b")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "linked").symlink_to(tmp_path / "study")
    found = find_runs([tmp_path])
    assert len(found) == 3
    assert {path.resolve().name for path in found} == {"a", "0001", "finetuned"}
    assert find_runs([tmp_path, tmp_path / "a"]) == found
    assert find_runs([tmp_path / "a"])[0] == tmp_path / "a"


def test_a_folder_that_may_not_be_read_is_skipped(tmp_path, monkeypatch):
    make_run(tmp_path / "a")
    make_run(tmp_path / "secret/b")
    original = os.scandir

    def scandir(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return original(path)

    with monkeypatch.context() as patch:  # the function is also what removes tmp_path
        patch.setattr("clipkit.runs.scan.os.scandir", scandir)
        assert find_runs([tmp_path]) == [tmp_path / "a"]


def test_a_root_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: expected a folder of runs"):
        load_runs([tmp_path / "nowhere"])


def test_the_index_saves_reading_and_is_never_needed(tmp_path, monkeypatch):
    for name in "abc":
        make_run(tmp_path / name)
    first = load_runs([tmp_path])
    monkeypatch.setattr("clipkit.runs.index.read_run", lambda folder: pytest.fail("read again"))
    assert load_runs([tmp_path]) == first
    monkeypatch.undo()
    (tmp_path / INDEX).unlink()
    assert load_runs([tmp_path]) == first
    for content in ("", "{torn", "[]", '{"format": "x"}', '{"format": "clipkit-runs-1", "runs": 3}',
                    '{"format": "clipkit-runs-1", "runs": {"a": {"stamp": 1}}}'):  # fmt: skip
        (tmp_path / INDEX).write_text(content)
        assert load_runs([tmp_path]) == first
    assert json.loads((tmp_path / INDEX).read_text())["runs"].keys() == {"a", "b", "c"}


def test_the_index_follows_changes(tmp_path):
    run = make_run(tmp_path / "a")
    make_run(tmp_path / "b")
    load_runs([tmp_path])
    write_run(replace(read_run(run), step=7777))
    assert [r.step for r in load_runs([tmp_path])] == [7777, 0]
    (run / "config.yaml").write_text("data: {batch_size: 999}")
    assert load_runs([tmp_path])[0].config == {"data.batch_size": 999}
    (run / "run.json").unlink()
    assert names(load_runs([tmp_path])) == ["b"]


def test_an_index_that_cannot_be_written_is_left_out(tmp_path, monkeypatch):
    make_run(tmp_path / "a")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("clipkit.runs.index.new_file", refuse)
    assert names(load_runs([tmp_path])) == ["a"]
    assert not (tmp_path / INDEX).exists()


def test_an_index_moves_with_its_folder(tmp_path):
    make_run(tmp_path / "old/a")
    load_runs([tmp_path / "old"])
    (tmp_path / "old").rename(tmp_path / "new")
    assert load_runs([tmp_path / "new"])[0].folder == tmp_path / "new/a"


def test_values_that_json_lacks_are_kept_as_text(tmp_path):
    run = make_run(tmp_path / "a")
    (run / "config.yaml").write_text("when: 2026-01-01\nlimit: .inf\n")
    first = load_runs([tmp_path])
    again = load_runs([tmp_path])
    assert [str(r.config["when"]) for r in (*first, *again)] == ["2026-01-01"] * 2


def test_two_thousand_runs_are_listed(tmp_path):
    for number in range(2000):
        folder = tmp_path / f"{number % 50:02}/{number:04}"
        folder.mkdir(parents=True)
        write_run(RunRecord(folder, "finished", metrics={"top1": number / 2000}))
    assert len(load_runs([tmp_path])) == 2000
    assert select_runs(load_runs([tmp_path]), sort="top1")[0].name == "1999"


@pytest.fixture
def runs():
    values = [("a", 32, 2.0, 0.3), ("b", 64, 1.5, None), ("c", 128, 3.0, 0.7)]
    return [
        RunRecord(
            Path(name), "finished" if name != "b" else "failed", started=float(n),
            metrics={"val/loss": loss} | ({} if top1 is None else {"top1": top1}),
            config={"data.batch_size": batch, "model.name": "ViT-B-32", "model.frozen": None,
                    "model.fast": True},
        )
        for n, (name, batch, loss, top1) in enumerate(values)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data.batch_size=64", "b"), ("data.batch_size != 64", "ac"), ("data.batch_size>=64", "bc"),
        ("val/loss<2.0", "b"), ("val/loss<=2", "ab"), ("val/loss>2e0", "c"), ("state=failed", "b"),
        ("model.name=ViT-B-32", "abc"), ("model.frozen=null", "abc"), ("model.fast=true", "abc"),
        ("top1!=0.3", "c"), ("name=a", "a"), ("model.name<3", ""),
    ],
)  # fmt: skip
def test_filters(runs, text, expected):
    assert sorted(names(select_runs(runs, [parse_filter(text)]))) == list(expected)


def test_order(runs):
    assert names(select_runs(runs)) == ["c", "b", "a"]  # the newest first
    assert names(select_runs(runs, sort="val/loss")) == ["b", "a", "c"]
    assert names(select_runs(runs, sort="top1")) == ["c", "a", "b"]
    assert names(select_runs(runs, sort="data.batch_size")) == ["a", "b", "c"]
    assert names(select_runs(runs, sort="model.frozen")) == ["a", "b", "c"]
    assert select_runs([], [parse_filter("x=1")], sort="y") == []


def test_unknown_names_and_conditions_are_explained(runs):
    with pytest.raises(ConfigError, match=r"--sort val/los: no run has.*'val/loss'"):
        select_runs(runs, sort="val/los")
    with pytest.raises(ConfigError, match=r"--where data\.batchsize.*'data\.batch_size'"):
        select_runs(runs, [parse_filter("data.batchsize=3")])
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        parse_filter("running")


def test_the_best_run_has_the_checkpoint_of_its_value(tmp_path):
    first = make_run(tmp_path / "a", metrics={"val/loss": 2.0, "top1": 0.5},
                     best=Best("val/loss", 1.0, "best.ckpt"), checkpoint="last.ckpt")  # fmt: skip
    second = make_run(tmp_path / "b", metrics={"val/loss": 1.5, "top1": 0.7},
                      checkpoint="last.ckpt")  # fmt: skip
    make_run(tmp_path / "c", metrics={"val/loss": 0.1, "top1": 0.9}, checkpoint="last.ckpt")
    for path in (first / "best.ckpt", first / "last.ckpt", second / "last.ckpt"):
        path.touch()
    runs = load_runs([tmp_path])  # that of c is missing
    assert best_run(runs, "val/loss")[1:] == (1.0, str(first / "best.ckpt"))
    assert best_run(runs, "val/loss", smallest=False)[1:] == (1.5, str(second / "last.ckpt"))
    assert best_run(runs, "top1")[1:] == (0.7, str(second / "last.ckpt"))
    with pytest.raises(ConfigError, match=r"got 'topl'; did you mean 'top1'\?; logged: top1, val"):
        best_run(runs, "topl")
    with pytest.raises(ConfigError, match="logged: nothing"):
        best_run([], "top1")


def test_a_checkpoint_in_a_store_counts(tmp_path):
    run = RunRecord(tmp_path, "finished", metrics={"top1": 0.5}, checkpoint="s3://b/last.ckpt")
    assert best_run([run], "top1")[2] == "s3://b/last.ckpt"


def test_differences(runs):
    options, metrics = compare_runs(runs)
    assert {row.name: row.values for row in options} == {
        "state": ("finished", "failed", "finished"), "data.batch_size": ("32", "64", "128"),
    }  # fmt: skip
    assert {row.name: row.values for row in metrics} == {
        "val/loss": ("2", "1.5", "3"), "top1": ("0.3", "–", "0.7"),
    }  # fmt: skip
