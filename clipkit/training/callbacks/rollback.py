"""Restore the weights of a checkpoint during a run, while data and schedules continue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from torch import nn

from clipkit.training.callbacks.moving_average import ExponentialMovingAverage
from clipkit.training.checkpoints.contents import AVERAGE, take_out_averages
from clipkit.training.lightning_compat import callbacks_of


def restore_weights(trainer: Trainer, path: str) -> int:
    """Restore the trained state of a run from a checkpoint; its counters continue.

    Weights, buffers, the memory of losses, the optimizer's state and the average of the weights are
    restored. Data, steps, epochs and schedules (of the learning rate, the weights of loss terms,
    the decay of the average) are not.
    """
    checkpoint = trainer.strategy.load_checkpoint(path)
    take_out_averages(checkpoint)
    loss = getattr(trainer.lightning_module, "loss", None)
    parts = list(loss.modules()) if isinstance(loss, nn.Module) else []
    steps = [(part, getattr(part, "num_steps", None)) for part in parts]  # for their schedules
    trainer.strategy.load_model_state_dict(checkpoint)
    for part, num_steps in steps:
        if isinstance(num_steps, int):
            part.num_steps = num_steps  # type: ignore[assignment]
    _restore_moments(trainer, checkpoint)
    for average in callbacks_of(trainer, ExponentialMovingAverage):
        if checkpoint[AVERAGE]:
            average.restore(checkpoint[AVERAGE])
    return int(checkpoint["global_step"])


def _restore_moments(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Load the optimizer's state, but keep the learning rates of this step."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    options = [{name: value for name, value in g.items() if name != "params"} for g in groups]
    trainer.strategy.load_optimizer_state_dict(checkpoint)
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    for group, own in zip(groups, options, strict=True):
        group.update(own)
