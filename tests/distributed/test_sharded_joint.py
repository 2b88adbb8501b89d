"""Two ranks that share out a joint encoder and its average (FSDP2) do what one process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from clipkit.training import ShardedStrategy
from clipkit.training.callbacks import SaveCheckpoint
from tests.distributed.test_sharded_strategy import Watch
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks
from tests.training.module.test_joint import module


def fit(folder: Path, run: Path, batch_size: int, ckpt: Path | None = None, **options: Any):
    watch, save = Watch(), SaveCheckpoint(keep_every_n_steps=2)
    trainer = tiny.trainer(run, watch, save, max_steps=3, num_nodes=1, **options)
    trained = module()
    trainer.fit(trained, datamodule=tiny.data(folder, batch_size), ckpt_path=ckpt)
    return watch, trained


def sharded_runs(rank: int, world_size: int, folder: Path, run: Path, one: Path):
    """A run, one in bfloat16, and one that goes on from the checkpoint of one process."""
    options = {"batch_size": 4, "devices": world_size}
    whole, trained = fit(folder, run / "whole", strategy=ShardedStrategy(), **options)
    average = trained.loss.teacher.encoder.text_tower.parameters()
    assert all(isinstance(value, DTensor) for value in average)
    half, _ = fit(
        folder, run / "half", strategy=ShardedStrategy(), precision="bf16-mixed", **options
    )
    ckpt = one / "step=2.ckpt"
    resumed, _ = fit(folder, run / "resumed", strategy=ShardedStrategy(), ckpt=ckpt, **options)
    return whole.losses, half.losses, resumed.losses, whole.sharded


def test_sharded_ranks_train_a_joint_encoder_like_one_process(tmp_path):
    folder = tiny.shards(tmp_path / "data", (40,))
    one, _ = fit(folder, tmp_path / "one", batch_size=8, devices=1)
    in_half, _ = fit(folder, tmp_path / "one_half", batch_size=8, devices=1, precision="bf16-mixed")
    ranks = run_ranks(sharded_runs, 2, folder, tmp_path / "two", tmp_path / "one")
    for losses, half, resumed, sharded in ranks:
        np.testing.assert_allclose(losses, one.losses, rtol=1e-5)
        np.testing.assert_allclose(resumed, one.losses[2:], rtol=1e-5)
        np.testing.assert_allclose(half, in_half.losses, rtol=0.03)
        assert sharded > 0.3
    states = [
        torch.load(tmp_path / path / "last.ckpt", weights_only=True)["state_dict"]
        for path in ("one", "two/whole")
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in tiny.comparable(states[0]).items():
        if "key_value.bias" not in name:
            torch.testing.assert_close(
                tiny.comparable(states[1])[name], value, atol=1e-4, rtol=0, msg=name
            )
