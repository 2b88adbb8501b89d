"""Choose how the checkpoints of a strategy are written."""

from __future__ import annotations

from lightning.pytorch import Trainer

from clipkit.distributed.background import separate_group
from clipkit.training.checkpoints.writers import (
    CheckpointWriter,
    WriteAtOnce,
    WriteInBackground,
)
from clipkit.training.strategies.fsdp import ShardedStrategy


def checkpoint_writer(trainer: Trainer, background: bool) -> CheckpointWriter:
    """Return the writer of a fit; every rank calls it.

    Threads of several ranks that write one checkpoint need a process group of their own: without
    one, training waits for the writes, and a warning names the reason.
    """
    if not background:
        return WriteAtOnce()
    strategy = trainer.strategy
    if not (isinstance(strategy, ShardedStrategy) and strategy.checkpoint == "sharded"):
        return WriteInBackground()
    separate = separate_group()
    if separate.group is None and trainer.world_size > 1:
        return WriteAtOnce()
    return WriteInBackground(separate.group)
