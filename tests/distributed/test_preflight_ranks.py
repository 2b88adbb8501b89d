"""The preflight of several ranks: one of them measures a pass, and none waits for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback

from clipkit.losses import CombinedLoss, ContrastiveLoss, LabelLoss
from clipkit.models import PrototypeLabelHead, from_open_clip
from clipkit.training.preflight.callback import Preflight
from clipkit.training.preflight.plan import make_plan
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks

NAMES = ["red", "green", "blue", "grey"]


class Plan(Callback):
    """The plan of rank 0, made while the other ranks go on to their first step."""

    def __init__(self) -> None:
        self.activations_known: bool | None = None

    def on_train_start(self, trainer, pl_module):
        if trainer.is_global_zero:
            plan = make_plan(trainer, pl_module, trainer.datamodule, 4)
            self.activations_known = plan.memory.activations_known


def exchange(*_):
    """What a tower of one's own may do in its forward pass."""
    if dist.is_initialized():
        dist.all_reduce(torch.ones(3))


def module_with(kind: str):
    module = tiny.module()
    torch.manual_seed(0)
    if kind == "prototypes":
        head = PrototypeLabelHead(16, NAMES, refresh_every=2)
        module.encoder = from_open_clip(tiny.CONFIG, label_head=head)
        module.loss = CombinedLoss(ContrastiveLoss(), LabelLoss(), label_weight=0.5)
    else:
        module.encoder.image_tower.register_forward_pre_hook(exchange)
    return module


def fit(rank: int, world_size: int, shards: Path, run: Path):
    results = {}
    for kind in ("prototypes", "tower"):
        plan, module = Plan(), module_with(kind)
        trainer = tiny.trainer(
            run / kind, Preflight(), plan, max_steps=3, devices=world_size, num_nodes=1,
            strategy="ddp",
        )  # fmt: skip
        trainer.fit(module, datamodule=tiny.data(shards))
        weights = {name: value.numpy() for name, value in module.encoder.state_dict().items()}
        results[kind] = plan.activations_known, weights
    return results


def test_no_rank_exchanges_anything_alone(shards: Path, tmp_path: Path) -> None:
    first, second = run_ranks(fit, 2, shards, tmp_path, timeout_seconds=100)
    assert first["prototypes"][0] is True
    assert first["tower"][0] is False  # it is not run to its end
    for kind, (_, weights) in first.items():
        for name, value in weights.items():
            np.testing.assert_array_equal(value, second[kind][1][name], err_msg=name)
    assert first["prototypes"][1]["label_head.num_steps"] == 3
    assert first["prototypes"][1]["label_head.prototypes"].any()
