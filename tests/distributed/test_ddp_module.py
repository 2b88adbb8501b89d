"""Two ranks under a real Trainer do what one process does on the joined batch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy

from clipkit.losses import CombinedLoss, ContrastiveLoss, LabelLoss
from clipkit.models import PrototypeLabelHead, from_open_clip
from clipkit.training.callbacks import ExponentialMovingAverage, KeyLog, SaveCheckpoint, Throughput
from clipkit.training.strategies.ddp import has_buffers_of_rank
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks

STEPS = 3
"""Steps of a run; two are an epoch."""


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
    val: bool = False,
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
        run, *callbacks, devices=devices, **{"max_steps": STEPS, "num_nodes": 1, **options}
    )
    module = tiny.module(
        labels=True, micro_batch_size=micro_batch_size, contrastive_weight=contrastive_weight
    )
    trainer.fit(module, datamodule=tiny.data(folder, batch_size, val=val), ckpt_path=ckpt)
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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"val": True},
    "micro-batches": {"micro_batch_size": 3},
    "labels-alone": {"contrastive_weight": 0.0, "micro_batch_size": 3},
}


def on_two_ranks(rank: int, world_size: int, folder: Path, root: Path) -> dict[str, Any]:
    """All runs on two ranks, after each other."""
    found: dict[str, Any] = {
        name: train_rank(rank, world_size, folder, root / name, options)
        for name, options in OPTIONS.items()
    }
    train_rank(rank, world_size, folder, root / "short", {"max_steps": STEPS - 1})
    found["options"] = ddp_options_of_rank(folder, root / "options")
    found["rates"] = rates_of_rank(world_size, folder, root / "rates")
    return found


@pytest.fixture(scope="module")
def two(shards: Path, root: Path) -> list[dict[str, Any]]:
    return run_ranks(on_two_ranks, 2, shards, root)


@pytest.fixture(scope="module")
def one(shards: Path, root: Path) -> Any:
    """Return losses and gradients of one process, with and without the contrastive loss."""
    return {
        weight: train(
            shards, root / f"one{weight}", batch_size=8, devices=1, contrastive_weight=weight
        )
        for weight in (0.0, 1.0)
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_loss_and_gradients_equal_those_of_one_process(name, root, one, two):
    weight = OPTIONS[name].get("contrastive_weight", 1.0)
    losses, gradients = one[weight]
    for results in two:
        rank_losses, rank_gradients = results[name]
        np.testing.assert_allclose(rank_losses, losses, rtol=1e-5)
        for step, expected in enumerate(gradients):
            assert expected.keys() == rank_gradients[step].keys()
            assert "encoder.log_logit_scale" in expected
            assert any(key.startswith("encoder.label_head.") for key in expected)
            for key, gradient in expected.items():
                np.testing.assert_allclose(
                    rank_gradients[step][key], gradient, rtol=2e-4, atol=2e-6, err_msg=key
                )
    assert keys_by_step(root / f"one{weight}") == keys_by_step(root / name)


@pytest.fixture(scope="module")
def undisturbed(shards: Path, root: Path) -> dict[int, set[str]]:
    train(shards, root / "undisturbed", batch_size=8, devices=1, max_steps=STEPS + 2)
    return keys_by_step(root / "undisturbed")


@pytest.mark.parametrize(("name", "save_at"), [("short", STEPS - 1), ("plain", STEPS)])
def test_two_ranks_resumed_on_one(shards, root, two, undisturbed, tmp_path, name, save_at):
    """The samples of every step are those of an undisturbed run, whoever reads them."""
    run = tmp_path / "run"
    shutil.copytree(root / name, run)
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == save_at
    assert not list(run.glob(".*"))  # nothing half written is left
    train(shards, run, batch_size=8, devices=1, ckpt=run / "last.ckpt", max_steps=STEPS + 2)
    assert keys_by_step(run) == undisturbed


class DdpOptions(Callback):
    def on_train_start(self, trainer, pl_module):
        wrapper = trainer.strategy.model
        self.options = (wrapper.gradient_as_bucket_view, wrapper.broadcast_buffers)


def ddp_options_of_rank(folder: Path, run: Path):
    results = []
    for strategy in ("ddp", DDPStrategy(gradient_as_bucket_view=False, broadcast_buffers=True)):
        gradients, options = Gradients(), DdpOptions()
        trainer = tiny.trainer(
            run,
            gradients,
            options,
            strategy=strategy,
            devices=2,
            max_steps=2,
            gradient_clip_val=0.1,
        )
        trainer.fit(tiny.module(labels=True), datamodule=tiny.data(folder))
        results.append((options.options, gradients.losses, gradients.gradients))
    return results


def test_options_of_ddp_change_no_number(two):
    for default, given in (results["options"] for results in two):
        assert (default[0], given[0]) == ((True, False), (False, True))
        assert default[1] == given[1]
        for gradients, expected in zip(default[2], given[2], strict=True):
            for name, gradient in expected.items():
                np.testing.assert_array_equal(gradients[name], gradient, err_msg=name)


def test_buffers_are_sent_only_if_ranks_may_differ():
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    assert has_buffers_of_rank(from_open_clip({**tiny.CONFIG, "vision_cfg": vision}))
    head = PrototypeLabelHead(16, ["red", "blue"])
    loss = CombinedLoss(ContrastiveLoss(), LabelLoss(class_weights=[1.0, 2.0]), label_weight=1.0)
    module = tiny.module()
    module.encoder, module.loss = from_open_clip(tiny.CONFIG, label_head=head), loss
    assert not has_buffers_of_rank(module)


def test_clock_and_learning_rate_agree_over_ranks(two):
    """With max_time every rank takes the same rates and the same number of steps."""
    (first, waits), (second, _) = (results["rates"] for results in two)
    assert first == second
    assert first[-1] < first[len(first) // 4]
    assert waits == [0]  # between the first and the second step


def rates_of_rank(world_size: int, folder: Path, run: Path):
    rates: list[float] = []
    waits: list[int] = []
    number = 0

    def broadcast(*given: Any) -> Any:
        nonlocal number
        number += 1
        return DDPStrategy.broadcast(trainer.strategy, *given)

    class Rates(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            nonlocal number
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            if trainer.global_step == 1:
                number = 0
            elif trainer.global_step == 2:
                waits.append(number)

    limits = {"max_steps": -1, "max_time": {"seconds": 2}}
    trainer = tiny.trainer(run, Rates(), devices=world_size, strategy="ddp", **limits)
    trainer.strategy.broadcast = broadcast  # type: ignore[method-assign,assignment]
    trainer.fit(tiny.module(), datamodule=tiny.data(folder))
    return rates, waits


def keys_by_step(run: Path) -> dict[int, set[str]]:
    steps: dict[int, set[str]] = {}
    for line in (run / "keys.txt").read_text().splitlines():
        step, _, key = line.split(" ", 2)
        steps.setdefault(int(step), set()).add(key)
    return steps


def refreshed(rank: int, world_size: int) -> list[list[float]]:
    """Prototypes after a refresh by a text tower with dropout, which draws by rank."""
    torch.manual_seed(rank)
    head = PrototypeLabelHead(16, ["red", "blue"], refresh_every=2)
    head.read_texts(lambda texts: torch.ones(len(texts), 3, dtype=torch.int64))
    head.score(torch.ones(4, 16), lambda tokens: torch.randn(len(tokens), 16))
    return head.prototypes.tolist()


def test_prototypes_are_the_same_on_every_rank() -> None:
    first, second = run_ranks(refreshed, 2)
    assert first == second
    assert first != [[0.0] * 16] * 2
