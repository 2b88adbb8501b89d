"""Records of runs: what is read back, what is told from the heartbeat, and damaged files."""

import json
import os
import socket
import time
from dataclasses import replace

import pytest
import yaml

from clipkit.errors import DataError
from clipkit.runs import Best, RunRecord, read_run, write_run
from clipkit.runs.record import config_hash

CONFIG = {"seed_everything": 0, "data": {"batch_size": 64}, "trainer": {"default_root_dir": "x"}}


def record(folder, **values):
    now = time.time()
    return RunRecord(
        folder, "running", now - 60, now, socket.gethostname(), os.getpid(), 2, 120,
        {"val/loss": 2.5}, Best("val/loss", 2.25, "best.ckpt"), "last.ckpt", {}, "abc", "def",
        {"torch": "2.9.1"},
    ) if not values else replace(record(folder), **values)  # fmt: skip


def test_records_are_read_back_with_their_configuration(tmp_path):
    write_run(record(tmp_path / "a"))
    (tmp_path / "a/config.yaml").write_text(yaml.safe_dump(CONFIG))
    again = read_run(tmp_path / "a")
    assert again.config["data.batch_size"] == 64
    assert replace(again, config={}, updated=0, started=0) == replace(
        record(tmp_path / "a"), updated=0, started=0
    )
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"run.json", "config.yaml"}


def test_a_running_run_has_a_heartbeat(tmp_path):
    running, now = record(tmp_path), time.time()
    assert running.checked().state == "running"
    assert running.checked(now + 59).state == "running"
    assert running.checked(now + 61).state == "killed"
    assert replace(running, state="finished").checked(now + 10_000).state == "finished"


def test_a_process_that_is_gone_was_killed(tmp_path):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    gone = record(tmp_path, pid=pid)
    assert gone.checked().state == "killed"
    assert replace(gone, host="another machine").checked().state == "running"


def test_a_clock_that_is_ahead_is_no_death(tmp_path):
    ahead = record(tmp_path, updated=time.time() + 1000)
    assert ahead.checked().state == "running"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[]",
        '{"format": "clipkit-run-1"}',
        '{"format": "clipkit-run-9"}',
        "[" * 99_999,
    ],
)
def test_a_damaged_record_leaves_an_unknown_state(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    damaged = read_run(tmp_path)
    assert damaged.state == "unknown"
    assert damaged.config["data.batch_size"] == 64
    assert damaged.config_hash == config_hash(CONFIG)


@pytest.mark.parametrize(
    "content", ["", "[1, 2", "a: b: c", "- 1", "\x00", "!!python/object:os.x {}"]
)
def test_a_damaged_configuration_is_empty(tmp_path, content):
    write_run(record(tmp_path))
    (tmp_path / "config.yaml").write_text(content)
    assert read_run(tmp_path).config == {}
    assert read_run(tmp_path).step == 120


def test_a_run_of_an_earlier_version_is_told_by_its_files(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.raises(DataError, match=r"expected the folder of a run with run\.json, or config"):
        read_run(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,val/loss\n1,2.0\n")
    assert read_run(tmp_path).state == "unknown"
    with pytest.raises(DataError, match="nowhere"):
        read_run(tmp_path / "nowhere")


def test_a_write_that_fails_leaves_the_earlier_record(tmp_path, monkeypatch):
    write_run(record(tmp_path))
    monkeypatch.setattr("pathlib.Path.write_text", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_run(record(tmp_path, step=130))
    monkeypatch.undo()
    assert read_run(tmp_path).step == 120
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_the_configuration_is_not_written_twice(tmp_path):
    write_run(record(tmp_path, config={"data.batch_size": 64}))
    assert "config" not in json.loads((tmp_path / "run.json").read_text())


def test_paths_of_checkpoints_move_with_the_run(tmp_path):
    run = record(tmp_path)
    assert run.place_of("last.ckpt") == str(tmp_path / "last.ckpt")
    assert run.place_of("/elsewhere/last.ckpt") == "/elsewhere/last.ckpt"
    assert run.place_of("s3://bucket/last.ckpt") == "s3://bucket/last.ckpt"
