"""The optimizer of a run, and the learning rates of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import Optimizer

from clipkit.errors import ConfigError
from clipkit.losses import CombinedLoss
from clipkit.models import TowerEncoder
from clipkit.optim import ParameterGroups

_CONFIGURED: Final = ("lr", "weight_decay")
"""Options of parameter groups that the configuration defines, also in a resumed run."""


def make_optimizer(
    groups: ParameterGroups, build: OptimizerCallable, encoder: TowerEncoder, loss: CombinedLoss
) -> Optimizer:
    """Build the optimizer over the encoder's groups and the trainable weights of the loss."""
    learned = [p for p in loss.parameters() if p.requires_grad]
    of_loss = {"params": learned, "name": "loss", "lr_scale": 1.0, "weight_decay": 0.0}
    try:
        return groups.optimizer(encoder, lambda own: build([*own, *([of_loss] if learned else [])]))
    except (ValueError, TypeError) as error:  # of an optimizer's options
        raise ConfigError(f"model.optimizer: {error}") from error


def configured_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return learning rate and weight decay of each group, as configured."""
    return [
        {name: group[name] for name in _CONFIGURED if name in group}
        for group in optimizer.param_groups
    ]


def set_learning_rates(
    optimizer: Optimizer, options: Sequence[dict[str, Any]], factor: float
) -> float:
    """Set the options of each group as configured, its learning rate times a factor.

    Returns:
        The highest learning rate.
    """
    for group, configured in zip(optimizer.param_groups, options, strict=True):
        group.update(configured)
        group["lr"] = configured["lr"] * factor
    return max(float(group["lr"]) for group in optimizer.param_groups)
