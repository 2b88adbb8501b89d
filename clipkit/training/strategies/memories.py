"""The memory of losses in checkpoints: that of all ranks, or the part of each."""

from __future__ import annotations

from typing import Any, Final

from lightning.pytorch.strategies import Strategy
from torch import nn

from clipkit.losses.memory import remembering_terms
from clipkit.training.strategies.fsdp import ShardedStrategy

_PREFIX: Final = "loss."


def complete_memories(strategy: Strategy, loss: nn.Module, state: dict[str, Any]) -> None:
    """Put the memory of a loss of all ranks into a checkpoint; every rank calls it.

    Rank 0 gathers it if it writes the checkpoint alone; otherwise it is sharded like the weights.

    Args:
        strategy: Strategy that will write the checkpoint.
        loss: Objective of the run.
        state: The ``state_dict`` of the checkpoint, with the memory of this rank alone.
    """
    mesh = None
    if isinstance(strategy, ShardedStrategy) and strategy.checkpoint == "sharded":
        mesh = strategy.device_mesh["data_parallel"]
    for key, term in remembering_terms(loss):
        complete = term.complete_state(mesh)
        if complete is not None and _PREFIX + key in state:
            state[_PREFIX + key] = complete
