"""Two ranks that share out weights and optimizer state (FSDP2) do what one process does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from torch.distributed.tensor import DTensor

from clipkit.models import load_encoder
from clipkit.training import ShardedStrategy
from clipkit.training.callbacks import (
    ActivationCheckpointing,
    CompileTowers,
    ExponentialMovingAverage,
    SaveCheckpoint,
)
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks

STEPS, HALF = 4, 2


class Watch(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.sharded = 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        parameters = list(pl_module.encoder.parameters())
        held = sum(p.numel() for p in parameters if isinstance(p, DTensor))
        self.sharded = held / sum(p.numel() for p in parameters)


def fit(
    folder: Path, run: Path, batch_size: int, ckpt: Path | None = None,
    micro: int | None = None, fused: bool = False, more: Sequence[Callback] = (), **options: Any,
) -> Watch:  # fmt: skip
    watch = Watch()
    callbacks = [watch, *more, ExponentialMovingAverage(), SaveCheckpoint(keep_every_n_steps=HALF)]
    trainer = tiny.trainer(
        run, *callbacks, max_steps=STEPS, num_nodes=1, gradient_clip_val=0.5, **options
    )
    data = tiny.data(folder, batch_size)
    module = tiny.module(labels=True, micro_batch_size=micro)
    if fused:
        module._build_optimizer = lambda groups: torch.optim.AdamW(groups, lr=1e-3, fused=True)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    return watch


def sharded_runs(rank: int, world_size: int, folder: Path, run: Path, one: Path):
    """A whole run, one in bfloat16, one that goes on, one in micro-batches and fused, compiled."""
    options = {"batch_size": 4, "devices": world_size}
    whole = fit(folder, run / "whole", strategy=ShardedStrategy(), **options)
    half = fit(folder, run / "half", strategy=ShardedStrategy(), precision="bf16-mixed", **options)
    ckpt = one / f"step={HALF}.ckpt"
    resumed = fit(folder, run / "resumed", strategy=ShardedStrategy(), ckpt=ckpt, **options)
    micro = fit(folder, run / "micro", strategy=ShardedStrategy(), micro=2, fused=True, **options)
    more = [CompileTowers(backend="aot_eager"), ActivationCheckpointing(keep="products")]
    towers = fit(folder, run / "towers", strategy=ShardedStrategy(), more=more, **options)
    again = (micro.losses, towers.losses)
    return whole.losses, half.losses, resumed.losses, again, whole.sharded


def test_sharded_ranks_train_like_one_process(tmp_path):
    folder = tiny.shards(tmp_path / "data", (40,))
    expected = fit(folder, tmp_path / "one", batch_size=8, devices=1).losses
    in_half = fit(
        folder, tmp_path / "one_half", batch_size=8, devices=1, precision="bf16-mixed"
    ).losses
    ranks = run_ranks(sharded_runs, 2, folder, tmp_path / "two", tmp_path / "one")
    for losses, half, resumed, again, sharded in ranks:
        for same in again:
            np.testing.assert_allclose(same, expected, rtol=1e-5)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        np.testing.assert_allclose(half, in_half, rtol=2e-2)
        np.testing.assert_allclose(resumed, expected[HALF:], rtol=1e-5)
        assert sharded > 0.95
    # the file is one that a single process reads, goes on with, and makes an encoder of
    ckpt = tmp_path / "two" / "whole" / f"step={HALF}.ckpt"
    resumed = fit(folder, tmp_path / "after", batch_size=8, devices=1, ckpt=ckpt).losses
    np.testing.assert_allclose(resumed, expected[HALF:], rtol=1e-5)
    files = [tmp_path / run / "last.ckpt" for run in ("one", "two/whole")]
    one, two = (torch.load(file, weights_only=True)["state_dict"] for file in files)
    assert one.keys() == two.keys()
    for prefix in ("encoder.", "ema."):
        # not the weights themselves: Adam makes steps of the rounding of keys' biases
        images, texts = zip(*(embeddings(file, prefix) for file in files), strict=True)
        torch.testing.assert_close(*images, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(*texts, rtol=1e-3, atol=1e-4)


def embeddings(file: Path, prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
    made = load_encoder(file, prefix)(tiny.batch())
    return made.image.detach(), made.text.detach()
