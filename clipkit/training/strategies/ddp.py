"""Telling a strategy that other parameters learn from now on."""

from __future__ import annotations

import gc

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from clipkit.errors import ConfigError


def rewrap(strategy: Strategy) -> None:
    """Have DDP look at the parameters anew: it waits for the gradients that it found at first."""
    if isinstance(strategy, ModelParallelStrategy):
        raise ConfigError(
            "LockTower.unlock: sharded weights cannot be unlocked during a run; lock them for the "
            "whole run, or use strategy ddp"
        )
    if isinstance(strategy, DDPStrategy) and strategy.model is not strategy.lightning_module:
        strategy.model = strategy.lightning_module
        gc.collect()  # the former wrapper's hooks on the gradients go with it
        strategy.configure_ddp()
