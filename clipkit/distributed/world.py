"""Rank of this process and number of processes, with any launcher."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch.distributed as dist

from clipkit.errors import ConfigError

_LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


@dataclass(frozen=True, slots=True)
class World:
    """Rank of this process and number of processes of a run."""

    rank: int = 0  # rank of this process, 0 to ``size`` - 1
    size: int = 1  # number of processes

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ConfigError(
                f"rank and world_size: expected 0 <= rank < world_size, "
                f"got rank {self.rank} of {self.size}"
            )

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0


def current_world() -> World:
    """Return rank and size of the process group, else of the launcher, else of one process.

    torchrun and Lightning set ``RANK`` and ``WORLD_SIZE``. SLURM's variables are used only inside a
    job step (``srun``): in a batch script they describe the allocation, not this process.
    """
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    for rank_name, size_name in _LAUNCHERS:
        rank, size = os.environ.get(rank_name), os.environ.get(size_name)
        if rank is None or size is None:
            continue
        if rank_name.startswith("SLURM") and "SLURM_STEP_ID" not in os.environ:
            continue
        try:
            return World(int(rank), int(size))
        except ValueError as error:
            raise ConfigError(
                f"environment: {rank_name}={rank!r} and {size_name}={size!r} "
                f"are not the rank and size of a run"
            ) from error
    return World()
