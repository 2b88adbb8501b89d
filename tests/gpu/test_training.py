"""Training on a GPU, against the CPU and against itself."""

from __future__ import annotations

import copy
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from clipkit.optim import EmaWeights
from clipkit.training import MetricsCsv, ShardedStrategy
from clipkit.training.callbacks import (
    ActivationCheckpointing,
    CompileTowers,
    ExponentialMovingAverage,
    ProfileSteps,
    SaveCheckpoint,
    StepGuard,
    Throughput,
)
from clipkit.training.checkpoints.staging import HostStage
from tests.gpu.device import ACCELERATOR, DEVICE, IS_CUDA, only_cuda
from tests.helpers import tiny
from tests.helpers.slow_writes import differences, held_writes

STEPS = 8


def fit(folder: Path, source: Path, *callbacks: Callback, **options: Any) -> list[float]:
    """The losses of a short run."""
    settings: dict[str, Any] = {
        "accelerator": ACCELERATOR,
        "devices": 1,
        "max_steps": STEPS,
        "logger": MetricsCsv(str(folder)),
        **options,
    }
    trainer = tiny.trainer(folder, *callbacks, **settings)
    trainer.fit(tiny.module(labels=True), datamodule=tiny.data(source))
    return losses(folder)


def losses(folder: Path) -> list[float]:
    with next(folder.rglob("metrics.csv")).open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def on_cpu(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return fit(tmp_path_factory.mktemp("cpu"), source, accelerator="cpu")


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({}, 1e-3),
        ({"precision": "bf16-mixed"}, 3e-2),
        ({"strategy": "ddp"}, 1e-3),
    ],
    ids=["fp32", "bf16-mixed", "ddp"],
)
def test_losses_are_those_of_the_cpu(
    tmp_path: Path, source: Path, on_cpu: list[float], options: dict[str, Any], limit: float
) -> None:
    assert fit(tmp_path, source, **options) == pytest.approx(on_cpu, rel=limit)


@only_cuda
def test_half_precision_leaves_its_first_steps_out_until_the_scale_fits(
    tmp_path: Path, source: Path, on_cpu: list[float]
) -> None:
    found = fit(tmp_path, source, precision="16-mixed", max_steps=30)
    assert found[0] == pytest.approx(on_cpu[0], rel=3e-2)
    assert sum(found[-5:]) < sum(found[:5])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_sharded_losses_are_those_of_the_cpu(
    tmp_path: Path, source: Path, on_cpu: list[float], precision: Any
) -> None:
    limit = 1e-3 if precision == "32-true" else 3e-2
    found = fit(tmp_path, source, strategy=ShardedStrategy(), precision=precision)
    assert found == pytest.approx(on_cpu, rel=limit)


@pytest.mark.parametrize(
    "strategy",
    [
        ShardedStrategy(reshard_after_forward=False),
        ShardedStrategy(cpu_offload=True),
        ShardedStrategy(checkpoint="sharded"),
    ],
    ids=["kept", "offloaded", "saved_in_parts"],
)
def test_options_of_sharding_change_no_loss(
    tmp_path: Path, source: Path, on_cpu: list[float], strategy: ShardedStrategy
) -> None:
    callbacks = (StepGuard(), ExponentialMovingAverage(), SaveCheckpoint())
    found = fit(tmp_path, source, *callbacks, strategy=strategy, gradient_clip_val=1e6)
    assert found == pytest.approx(on_cpu, rel=1e-3)
    assert (tmp_path / "last.ckpt").exists()


def test_every_callback_of_long_runs_together(
    tmp_path: Path, source: Path, on_cpu: list[float]
) -> None:
    found = fit(
        tmp_path,
        source,
        CompileTowers(),
        ActivationCheckpointing(),
        ExponentialMovingAverage(),
        StepGuard(),
        Throughput(),
        SaveCheckpoint(),
        gradient_clip_val=1e6,
    )
    assert found == pytest.approx(on_cpu, rel=1e-3)
    assert (tmp_path / "last.ckpt").exists()
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        shares = [
            float(row["throughput/data_wait_share"])
            for row in csv.DictReader(file)
            if row["throughput/data_wait_share"]
        ]
    assert shares
    assert all(0 <= share <= 1 for share in shares)


class Snapshot(Callback):
    """Weights and moments after a step."""

    def __init__(self, step: int) -> None:
        self.step, self.content = step, {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            weights, moments = pl_module.state_dict(), trainer.optimizers[0].state_dict()["state"]
            self.content = copy.deepcopy({"weights": weights, "moments": moments})


def test_a_write_in_the_background_has_the_state_of_its_step(tmp_path: Path, source: Path) -> None:
    """The copies are read when later steps have changed the weights on the device."""
    snapshot = Snapshot(3)
    saver = SaveCheckpoint(every_n_minutes=None, keep_every_n_steps=3, background=True)
    with held_writes(0.5):
        fit(tmp_path, source, snapshot, saver)
    stored = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    found = {"weights": stored["state_dict"], "moments": stored["optimizer_states"][0]["state"]}
    assert not differences(apply_to_collection(snapshot.content, torch.Tensor, Tensor.cpu), found)


@only_cuda
def test_host_memory_is_pinned_and_filled_before_the_next_kernel() -> None:
    weights = torch.full((1 << 24,), 1.0, device="cuda")
    stage = HostStage()
    for value in (1.0, 2.0):
        weights.fill_(value)
        copied = stage.copy({"a": weights, "b": weights[3:7]})
        weights.zero_()  # queued behind the copy
        stage.wait()
        assert copied["a"].is_pinned()
        assert bool((copied["a"] == value).all())
        assert copied["b"].tolist() == [value] * 4


def test_utilisation_is_logged_and_steps_are_recorded(tmp_path: Path, source: Path) -> None:
    fit(
        tmp_path,
        source,
        Throughput(peak_tflops=1.0),
        ProfileSteps(first_batch=2, num_batches=2, memory=IS_CUDA),
        precision="bf16-mixed",
    )
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["throughput/mfu"]]
    assert rows
    for row in rows:
        rate = float(row["throughput/tflops_per_second"])
        assert 0 < rate == pytest.approx(float(row["throughput/mfu"]))
    names = {path.name for path in (tmp_path / "profile").iterdir()}
    of_memory = {"memory.pickle"} if IS_CUDA else set()
    assert names == {"trace.json.gz", "operators.txt"} | of_memory
    assert ("CUDA" in (tmp_path / "profile/operators.txt").read_text()) == IS_CUDA


class SpoilGradient(Callback):
    """Makes one gradient NaN at a step."""

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_step == 2:
            next(iter(pl_module.encoder.parameters())).grad.fill_(torch.nan)


def test_step_guard_leaves_a_bad_step_out(tmp_path: Path, source: Path) -> None:
    found = fit(tmp_path, source, SpoilGradient(), StepGuard(), precision="bf16-mixed")
    assert all(value == value for value in found)
    assert (tmp_path / "bad_steps.jsonl").exists()


COMMAND = """
import sys
from clipkit.training.callbacks import SaveCheckpoint, KeyLog
from clipkit.training import MetricsCsv
from tests.helpers import tiny
folder, source, ckpt, steps, accelerator = sys.argv[1:]
trainer = tiny.trainer(folder, SaveCheckpoint(every_n_steps=1), KeyLog(folder + "/keys.txt"),
                       accelerator=accelerator, max_steps=int(steps), logger=MetricsCsv(folder))
from pathlib import Path
trainer.fit(tiny.module(), datamodule=tiny.data(Path(source)),
            ckpt_path=None if ckpt == "none" else ckpt)
"""


def test_goes_on_with_the_next_sample_after_kill_9(tmp_path: Path, source: Path) -> None:
    def start(folder: Path, ckpt: str, steps: int) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        arguments = [str(folder), str(source), ckpt, str(steps), ACCELERATOR]
        return subprocess.Popen([sys.executable, "-c", COMMAND, *arguments])

    assert start(tmp_path / "whole", "none", 40).wait() == 0
    killed = start(tmp_path / "killed", "none", 100_000)
    last = tmp_path / "killed" / "last.ckpt"
    until = time.monotonic() + 120
    while time.monotonic() < until and not last.exists():
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    step = int(torch.load(last, weights_only=True)["global_step"])
    assert start(tmp_path / "killed", str(last), max(40, step + 10)).wait() == 0

    def keys(name: str) -> dict[str, list[str]]:
        by_step: dict[str, list[str]] = {}
        for line in (tmp_path / name / "keys.txt").read_text().splitlines():
            number, _, key = line.split(" ", 2)
            by_step.setdefault(number, []).append(key)
        return by_step

    whole, resumed = keys("whole"), keys("killed")
    common = whole.keys() & resumed.keys()
    assert len(common) >= 30
    assert all(whole[number] == resumed[number] for number in common)


def test_the_average_of_weights_in_one_kernel_equals_that_of_single_tensors() -> None:
    encoder = tiny.encoder().to(DEVICE)
    together, single = EmaWeights(encoder), EmaWeights(encoder)
    for _ in range(3):
        for parameter in encoder.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        together.update(encoder)
        single.update(encoder, torch.zeros((), device=DEVICE))
    assert all(torch.equal(value, single.weights[name]) for name, value in together.weights.items())
