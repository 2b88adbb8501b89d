"""Tell a strategy that the set of trainable parameters has changed."""

from __future__ import annotations

import gc

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from clipkit.errors import ConfigError


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
