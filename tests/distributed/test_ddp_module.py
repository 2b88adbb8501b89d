"""Two ranks under a real Trainer do what one process does on the joined batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from clipkit.training.callbacks import ExponentialMovingAverage, KeyLog, SaveCheckpoint, Throughput
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks


class Gradients(Callback):
    """Keeps the loss and the gradients of every step, as the optimizer sees them."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[dict[str, np.ndarray]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients.append(
            {
                name: p.grad.numpy().copy()
                for name, p in pl_module.named_parameters()
                if p.requires_grad
            }
        )


def train(
    folder: Path,
    run: Path,
    batch_size: int,
    devices: int,
    ckpt: Path | None = None,
    micro_batch_size: int | None = None,
    contrastive_weight: float = 1.0,
    **options: Any,
) -> tuple[list[float], list[dict[str, np.ndarray]]]:
    """A few steps with both losses; what each step gave."""
    gradients = Gradients()
    callbacks = [
        gradients,
        KeyLog(str(run / "keys.txt")),
        SaveCheckpoint(every_n_steps=2),
        ExponentialMovingAverage(),
        Throughput(),
    ]
    trainer = tiny.trainer(
        run, *callbacks, devices=devices, **{"max_steps": 4, "num_nodes": 1, **options}
    )
    module = tiny.module(
        labels=True, micro_batch_size=micro_batch_size, contrastive_weight=contrastive_weight
    )
    trainer.fit(module, datamodule=tiny.data(folder, batch_size, val=True), ckpt_path=ckpt)
    return gradients.losses, gradients.gradients


def train_rank(rank: int, world_size: int, folder: Path, run: Path, options: dict[str, Any]):
    return train(folder, run, batch_size=4, devices=world_size, strategy="ddp", **options)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Half of the pairs have no label, so that the ranks have different numbers of them."""
    folder = tmp_path_factory.mktemp("shards")
    tiny.shards(folder, (11,))
    unlabelled = tiny.shards(folder / "unlabelled", (12,), label=False, start=500)
    (unlabelled / "train" / "00000.tar").rename(folder / "train" / "00001.tar")
    return folder


@pytest.mark.parametrize(
    "options",
    [{}, {"micro_batch_size": 3}, {"contrastive_weight": 0.0, "micro_batch_size": 3}],
    ids=["plain", "micro-batches", "labels-alone"],
)
def test_loss_and_gradients_equal_those_of_one_process(options, shards, tmp_path):
    whole = {name: value for name, value in options.items() if name != "micro_batch_size"}
    losses, gradients = train(shards, tmp_path / "one", batch_size=8, devices=1, **whole)
    ranks = run_ranks(train_rank, 2, shards, tmp_path / "two", options)
    for rank_losses, rank_gradients in ranks:
        np.testing.assert_allclose(rank_losses, losses, rtol=1e-5)
        for step, expected in enumerate(gradients):
            assert expected.keys() == rank_gradients[step].keys()
            assert "encoder.log_logit_scale" in expected
            assert any(name.startswith("encoder.label_head.") for name in expected)
            for name, gradient in expected.items():
                np.testing.assert_allclose(
                    rank_gradients[step][name], gradient, rtol=2e-4, atol=2e-6, err_msg=name
                )
    assert keys_by_step(tmp_path / "one") == keys_by_step(tmp_path / "two")


@pytest.mark.parametrize("save_at", [2, 4])
def test_two_ranks_resumed_on_one(shards, tmp_path, save_at):
    """The samples of every step are those of an undisturbed run, whoever reads them."""
    train(shards, tmp_path / "whole", batch_size=8, devices=1, max_steps=7)
    run = tmp_path / "run"
    run_ranks(train_rank, 2, shards, run, {"max_steps": save_at})
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == save_at
    assert not list(run.glob(".*"))  # nothing half written is left
    train(shards, run, batch_size=8, devices=1, ckpt=run / "last.ckpt", max_steps=7)
    assert keys_by_step(run) == keys_by_step(tmp_path / "whole")


def test_clock_and_learning_rate_agree_over_ranks(shards, tmp_path):
    """With max_time every rank takes the same rates and the same number of steps."""
    options = {"max_steps": -1, "max_time": {"seconds": 2}}
    first, second = run_ranks(rates_of_rank, 2, shards, tmp_path, options)
    assert first == second
    assert first[-1] < first[len(first) // 4]


def rates_of_rank(rank: int, world_size: int, folder: Path, run: Path, options: dict[str, Any]):
    rates: list[float] = []

    class Rates(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = tiny.trainer(run, Rates(), devices=world_size, strategy="ddp", **options)
    trainer.fit(tiny.module(), datamodule=tiny.data(folder))
    return rates


def keys_by_step(run: Path) -> dict[int, set[str]]:
    steps: dict[int, set[str]] = {}
    for line in (run / "keys.txt").read_text().splitlines():
        step, _, key = line.split(" ", 2)
        steps.setdefault(int(step), set()).add(key)
    return steps
