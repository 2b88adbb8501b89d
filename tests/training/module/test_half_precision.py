"""float16 with a loss scale, as on a GPU: the plugin that Lightning would build, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision

from clipkit.training.callbacks import ExponentialMovingAverage, SaveCheckpoint, StepGuard
from tests.helpers import tiny
from tests.helpers.bad_steps import Poison, Watch, module


def half(scale: float = 1024.0, **options: Any) -> MixedPrecision:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, **options)
    return MixedPrecision("16-mixed", "cpu", scaler)


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(outputs["loss"]))


def fit(
    shards: Path, run: Path, plugin: MixedPrecision | None, *callbacks: Callback,
    micro_batch_size: int | None = None, fused: bool = False, ckpt: Path | None = None,
    **options: Any,
):  # fmt: skip
    losses = Losses()
    plugins = {"plugins": [plugin]} if plugin else {}
    trainer = tiny.trainer(run, losses, *callbacks, **{"max_steps": 8, **plugins, **options})
    trained = module(fused)
    trained.micro_batch_size = micro_batch_size
    trainer.fit(trained, datamodule=tiny.data(shards), ckpt_path=ckpt)
    return losses.values, trained


def way(encoder: torch.nn.Module) -> torch.Tensor:
    """From where the weights started to where they are."""
    start = tiny.encoder().state_dict()
    return torch.cat([(v - start[name]).flatten() for name, v in encoder.state_dict().items()])


@pytest.mark.parametrize(
    ("fused", "micro_batch_size"), [(False, None), (True, 2)], ids=["plain", "fused in parts"]
)
def test_losses_are_those_of_float32(shards, tmp_path, fused, micro_batch_size):
    options = {"fused": fused, "gradient_clip_val": 0.5, "micro_batch_size": micro_batch_size}
    exact, expected = fit(shards, tmp_path, None, **options)
    losses, trained = fit(shards, tmp_path, half(), **options)
    torch.testing.assert_close(losses, exact, rtol=5e-3, atol=0)
    assert losses != exact  # it was computed in half precision
    # Adam's steps have the size of the learning rate, so directions tell more than differences.
    moves = way(expected.encoder), way(trained.encoder)
    assert torch.nn.functional.cosine_similarity(*moves, dim=0) > 0.95


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_steps_that_the_scaler_leaves_out_are_not_bad(shards, tmp_path, fused):
    watch = Watch()
    plugin = half(2.0**40, backoff_factor=2.0**-10)
    _, trained = fit(shards, tmp_path, plugin, StepGuard(max_in_a_row=1), watch, fused=fused)
    assert not watch.moved(2)
    assert watch.moved(8)
    assert not (tmp_path / "bad_steps.jsonl").exists()
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() < 2.0**40
    assert all(value.isfinite().all() for value in trained.encoder.state_dict().values())


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_bad_steps_are_left_out(shards, tmp_path, fused):
    """One with NaN, which lowers the scale, and a spike of finite numbers, which does not."""
    watch, average = Watch(), ExponentialMovingAverage(decay=0.5)
    callbacks = (Poison([3]), Poison([28], factor=-50.0), StepGuard(sigmas=8.0), watch, average)
    plugin = half()
    _, trained = fit(shards, tmp_path, plugin, *callbacks, fused=fused, max_steps=30)
    lines = (tmp_path / "bad_steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 28]
    moved = [watch.moved(step) for step in (2, 3, 4, 27, 28, 29)]
    assert moved == [True, False, True, True, False, True]
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() == 512
    assert all(value.isfinite().all() for value in trained.encoder.state_dict().values())


def test_resumed_run_goes_on_with_the_scale(shards, tmp_path):
    plugins = [half(growth_interval=3), half(2.0, growth_interval=3)]
    average, save = ExponentialMovingAverage(), SaveCheckpoint(keep_every_n_steps=4)
    whole, first = fit(shards, tmp_path, plugins[0], average, save)
    again = (ExponentialMovingAverage(), SaveCheckpoint())
    run = tmp_path / "resumed"
    resumed, second = fit(shards, run, plugins[1], *again, ckpt=tmp_path / "step=4.ckpt")
    assert resumed == whole[4:]
    scales = [plugin.state_dict() for plugin in plugins]
    assert scales[0] == scales[1]
    assert scales[0]["scale"] == 1024.0 * 4
    for expected, got in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(expected, got)
    files = (tmp_path / "last.ckpt", run / "last.ckpt")
    states = [torch.load(file, weights_only=True)["state_dict"] for file in files]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
