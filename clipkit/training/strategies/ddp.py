"""Options of DDP, and what to do when the set of trainable parameters has changed."""

from __future__ import annotations

import gc
from typing import Final

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn

from clipkit.distributed.background import limit_waits
from clipkit.errors import ConfigError
from clipkit.losses import LabelLoss, MultiLabelLoss
from clipkit.models import PrototypeLabelHead
from clipkit.training.lightning_compat import set_ddp_defaults, timeout_of

_SAME_ON_RANKS: Final = (LabelLoss, MultiLabelLoss, PrototypeLabelHead)
"""Modules whose buffers are constant, or sent to all ranks by the module itself."""


def save_memory_and_traffic(strategy: Strategy, module: nn.Module) -> None:
    """Set options of DDP that change no number, unless they are configured.

    Gradients are views into the buckets in which they are exchanged, not copies of them. Buffers
    are sent from the first rank in every step only if ranks may have different ones. Exchanges in
    the background get the timeout of the strategy.

    Args:
        strategy: The strategy of a trainer, before it wraps the module.
        module: The module that it will wrap.
    """
    limit_waits(timeout_of(strategy))
    if isinstance(strategy, DDPStrategy):
        set_ddp_defaults(strategy, sends_buffers=has_buffers_of_rank(module))


def has_buffers_of_rank(module: nn.Module) -> bool:
    """Return whether ranks may have different buffers, such as running statistics of their batches.

    These are stored in checkpoints, unlike constants (masks, means of pixels).

    Examples:
        >>> has_buffers_of_rank(nn.BatchNorm1d(3)), has_buffers_of_rank(nn.LayerNorm(3))
        (True, False)
    """
    stored = set(module.state_dict())
    return any(
        f"{prefix}.{name}".lstrip(".") in stored
        for prefix, part in module.named_modules()
        if not isinstance(part, _SAME_ON_RANKS)
        for name, _ in part.named_buffers(recurse=False)
    )


def rewrap(strategy: Strategy) -> None:
    """Rebuild DDP's wrapper, which expects gradients of the initially trainable parameters."""
    if isinstance(strategy, ModelParallelStrategy):
        raise ConfigError(
            "LockTower.unlock: sharded weights cannot be unlocked during a run; lock them for the "
            "complete run, or use strategy ddp"
        )
    if isinstance(strategy, DDPStrategy) and strategy.model is not strategy.lightning_module:
        strategy.model = strategy.lightning_module
        gc.collect()  # deletes the previous wrapper's hooks on gradients
        strategy.configure_ddp()
