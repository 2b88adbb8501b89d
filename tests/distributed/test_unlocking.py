"""Layers that are unlocked during a run learn the same on two ranks as on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers import tiny
from tests.helpers.ranks import run_ranks
from tests.helpers.tower_runs import Movement, unlocking


def fit(folder: Path, run: Path, batch_size: int, **options: Any):
    movement = Movement()
    trainer = tiny.trainer(run, movement, unlocking(), max_steps=6, num_nodes=1, **options)
    trainer.fit(tiny.module(learning_rate=0.02), datamodule=tiny.data(folder, batch_size))
    return movement.moved, movement.losses


def fit_rank(rank: int, world_size: int, folder: Path, run: Path):
    return fit(folder, run, batch_size=4, devices=world_size, strategy="ddp")


def test_unlocking_under_ddp(tmp_path):
    folder = tiny.shards(tmp_path / "data", (60,))
    moved, losses = fit(folder, tmp_path / "one", batch_size=8, devices=1)
    for rank_moved, rank_losses in run_ranks(fit_rank, 2, folder, tmp_path / "two"):
        assert rank_moved == moved
        np.testing.assert_allclose(rank_losses, losses, rtol=1e-4)
