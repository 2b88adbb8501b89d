"""Runs whose towers are partly locked."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback

from clipkit.training.callbacks import LockTower, Unlock


class Movement(Callback):
    """Which layer groups of the image tower each step moved."""

    def __init__(self) -> None:
        self.moved: list[list[bool]] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = {n: p.clone() for n, p in pl_module.encoder.image_tower.named_parameters()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        tower = pl_module.encoder.image_tower
        self.moved.append(
            [
                any(not torch.equal(self.before[n], tower.get_parameter(n)) for n in names)
                for names in tower.layer_groups()
            ]
        )


def unlocking():
    """The output of three groups learns from step 2, the block below it from step 4 of 6."""
    return LockTower("image_tower", unlock=[Unlock(1, begin=2), Unlock(2, begin=0.65)])
