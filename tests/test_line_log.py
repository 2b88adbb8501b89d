"""Logs on a full disk: delayed, whole, and no reason to end a run."""

from __future__ import annotations

import csv
import os

import pytest

from clipkit.line_log import BufferedLineLog
from clipkit.training import MetricsCsv
from clipkit.training.callbacks import KeyLog
from tests.helpers import tiny


@pytest.fixture
def disk(monkeypatch):
    """A disk with room for ``disk.room`` more bytes of appended lines."""

    class Disk:
        room = 1 << 30

    real = os.write

    def write(descriptor: int, content: bytes) -> int:
        if Disk.room == 0:
            raise OSError(28, "No space left on device")
        written = real(descriptor, content[: Disk.room])
        Disk.room -= written
        return written

    monkeypatch.setattr(os, "write", write)
    return Disk


def test_lines_wait_for_room_and_none_is_half(tmp_path, disk, caplog):
    log = BufferedLineLog(tmp_path / "run" / "log.txt")
    log.append("one\n")
    disk.room = 3
    log.append("second\n")
    assert log.path.read_text() == "one\n"
    disk.room = 0
    log.append("third\n")
    assert caplog.text.count("No space left on device; tried again later") == 1
    disk.room = 100
    log.append("fourth\n")
    assert log.path.read_text() == "one\nsecond\nthird\nfourth\n"
    assert "nothing is missing" in caplog.text


def test_what_stays_missing_is_said(tmp_path, disk, caplog):
    log = BufferedLineLog(tmp_path / "log.txt")
    disk.room = 0
    log.append("a\nb\n")
    log.close()
    assert "the last 2 lines are missing: No space left" in caplog.text


def test_run_goes_on_and_its_keys_are_all_there(tmp_path, disk):
    folder = tiny.shards(tmp_path / "data")

    path = tmp_path / "keys.txt"
    log = KeyLog(str(path))
    disk.room = 40  # enough for some batches
    trainer = tiny.trainer(tmp_path, log, max_steps=5)
    real = log.on_train_batch_end

    def on_train_batch_end(trainer, *args):
        if trainer.global_step == 5:
            disk.room = 1 << 30
        real(trainer, *args)

    log.on_train_batch_end = on_train_batch_end
    trainer.fit(tiny.module(), datamodule=tiny.data(folder))
    steps = [line.split()[0] for line in path.read_text().splitlines()]
    assert steps == [str(step) for step in range(1, 6) for _ in range(4)]


def test_rows_of_the_table_wait(tmp_path, monkeypatch, caplog):
    log = MetricsCsv(str(tmp_path))
    log.log_metrics({"a": 1.0}, 0)
    refused = []

    def refuse(*_):
        refused.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerow", refuse)
    log.log_metrics({"a": 2.0}, 1)
    log.log_metrics({"b": 3.0}, 2)
    assert len(refused) == 2
    assert caplog.text.count("No space left on device; tried again later") == 1
    monkeypatch.undo()
    log.finalize("success")
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["a"], row["b"]) for row in rows] == [
        ("0", "1.0", ""), ("1", "2.0", ""), ("2", "", "3.0"),
    ]  # fmt: skip


def test_rows_that_stay_missing_are_said(tmp_path, monkeypatch, caplog):
    log = MetricsCsv(str(tmp_path))

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerow", refuse)
    log.log_metrics({"a": 2.0}, 1)
    log.finalize("success")
    assert "the last 1 rows are missing" in caplog.text
