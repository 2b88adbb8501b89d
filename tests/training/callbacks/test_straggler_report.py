"""Ranks that are slower than the others are named while a run trains."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from clipkit.errors import ConfigError
from clipkit.training.callbacks import StragglerReport
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks


def reported(rank: int, world_size: int, shards: Path, run: Path) -> tuple[list[str], dict]:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("clipkit.training.callbacks.performance.straggler_report").addHandler(handler)
    module = tiny.module()
    if rank == 1:
        module.encoder.image_tower.register_forward_pre_hook(lambda *_: time.sleep(0.5))
    options = {"max_steps": 2, "devices": world_size, "strategy": "ddp"}
    trainer = tiny.trainer(run, StragglerReport(every_n_steps=1), **options)
    trainer.fit(module, datamodule=tiny.data(shards))
    return said, {
        name: float(v) for name, v in trainer.callback_metrics.items() if "ranks/" in name
    }


def test_the_slow_rank_is_named_on_rank_0(shards, tmp_path):
    (first, values), (second, same) = run_ranks(reported, 2, shards, tmp_path)
    assert first
    assert all("rank 1 (" in line for line in first)
    assert all(line.endswith("the forward pass of the towers") for line in first)
    assert second == []
    assert values == same
    assert values["ranks/slowest_seconds"] > 0.4


def test_one_rank_has_nobody_to_wait_for(shards, tmp_path, caplog):
    report = StragglerReport(every_n_steps=1)
    trainer = tiny.trainer(tmp_path, report, max_steps=2)
    trainer.fit(tiny.module(), datamodule=tiny.data(shards))
    assert "wait for" not in caplog.text
    assert not any("ranks/" in name for name in trainer.callback_metrics)


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"slow_ratio": 1.0}])
def test_numbers_are_checked(options):
    with pytest.raises(ConfigError, match="StragglerReport: expected"):
        StragglerReport(**options)
