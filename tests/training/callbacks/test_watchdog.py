"""Which rank a run waits for, as its ranks' heartbeats tell."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from clipkit.errors import ConfigError
from clipkit.training.callbacks import Watchdog
from clipkit.training.callbacks.performance.watchdog import ABORTED
from clipkit.training.health.heartbeat import (
    STEP,
    Heartbeat,
    diagnose,
    read_heartbeats,
    write_heartbeat,
)
from tests.helpers import tiny
from tests.helpers.ranks import fork_server, run_ranks

NOW = 1000.0


def heartbeat(rank: int, batch: int = 7, phase: str = STEP, age: float = 1.0, stands: float = 60.0):
    return Heartbeat(rank, f"host{rank}", 10 + rank, batch, batch, phase, NOW - stands, NOW - age)


class TestDiagnose:
    def said(self, *heartbeats: Heartbeat | None) -> list[str]:
        return diagnose(heartbeats, NOW, silence_seconds=30)

    def test_silent_rank_is_dead_or_cut_off(self):
        (line,) = self.said(heartbeat(0), heartbeat(1, age=300.0), heartbeat(2))
        assert line.startswith("rank 1 (host1, process 11) has been silent for 300 s")

    def test_rank_that_waits_for_data_is_behind(self):
        (line,) = self.said(
            heartbeat(0), heartbeat(1), heartbeat(2, phase="waiting for data", stands=70.0)
        )
        assert line == "rank 2 (host2, process 12) is behind: step 7, waiting for data for 70 s"

    def test_rank_with_fewer_batches_is_behind(self):
        (line,) = self.said(heartbeat(0), heartbeat(1, batch=6), heartbeat(2))
        assert line.startswith("rank 1 (host1, process 11) is behind: step 6, training step")

    def test_rank_without_a_file_never_started(self):
        assert self.said(heartbeat(0), None)[0].startswith("rank 1 has no heartbeat")

    def test_nobody_stands_out(self):
        assert self.said(heartbeat(0), heartbeat(1)) == []


def test_beats_are_read_back_and_torn_ones_are_none(tmp_path):
    write_heartbeat(tmp_path, heartbeat(0))
    (tmp_path / "rank1.json").write_text('{"rank": 1')
    assert read_heartbeats(tmp_path, 3) == [heartbeat(0), None, None]
    assert {path.name for path in tmp_path.iterdir()} == {"rank0.json", "rank1.json"}


class Sleep(Callback):
    """One rank that dreams before its step."""

    def __init__(self, seconds: float, rank: int) -> None:
        self.seconds, self.rank = seconds, rank

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2 and trainer.global_rank == self.rank:
            time.sleep(self.seconds)


def watched_rank(rank: int, world_size: int, shards: Path, run: Path) -> list[str]:
    import logging

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("clipkit.training.callbacks.performance.watchdog").addHandler(handler)
    dog = Watchdog(limit_seconds=0.8, interval_seconds=0.1)
    # The dreamer is asleep before the watchdog's turn, so its phase stays "waiting for data".
    options = {"max_steps": 3, "devices": world_size, "strategy": "ddp"}
    trainer = tiny.trainer(run, Sleep(2.5, rank=1), dog, **options)
    trainer.fit(tiny.module(), datamodule=tiny.data(shards))
    return said


def test_the_rank_that_is_waited_for_is_named_with_stacks(shards, tmp_path):
    first, _ = run_ranks(watched_rank, 2, shards, tmp_path)
    assert len(first) == 1
    assert "rank 0 has made no progress for" in first[0]
    assert "rank 1" in first[0]
    assert "is behind: step 2, waiting for data" in first[0]
    stacks = (tmp_path / "heartbeats" / "rank1.stacks.txt").read_text()
    assert "time.sleep" in stacks or "on_train_batch_start" in stacks


def test_quiet_run_reports_nothing_and_leaves_no_thread(shards, tmp_path, caplog):
    import threading

    trainer = tiny.trainer(tmp_path, Watchdog(limit_seconds=60), max_steps=3)
    trainer.fit(tiny.module(), datamodule=tiny.data(shards))
    assert "no progress" not in caplog.text
    assert not [t for t in threading.enumerate() if t.name == "clipkit-watchdog"]
    assert read_heartbeats(tmp_path / "heartbeats", 1)[0] is not None


def aborted(shards: Path, run: Path) -> None:
    dog = Watchdog(limit_seconds=0.5, interval_seconds=0.1, abort_after_seconds=1.0)
    trainer = tiny.trainer(run, Sleep(60, rank=0), dog, max_steps=3)
    trainer.fit(tiny.module(), datamodule=tiny.data(shards))


def test_a_rank_that_is_stuck_ends_itself(shards, tmp_path):
    process = fork_server().Process(target=aborted, args=(shards, tmp_path))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == ABORTED
    assert (tmp_path / "heartbeats" / "rank0.stacks.txt").read_text()


def test_numbers_are_checked():
    with pytest.raises(ConfigError, match=r"interval_seconds < limit_seconds, got 10\.0 and 5"):
        Watchdog(limit_seconds=5)
    with pytest.raises(ConfigError, match="abort_after_seconds >= limit_seconds"):
        Watchdog(limit_seconds=60, abort_after_seconds=30)
