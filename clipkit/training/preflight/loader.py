"""What the worker processes of a run need of its machine, and what is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clipkit.data.order.partition import BatchTask
from clipkit.data.stream.workers import TASK_SAMPLES, TASKS_AHEAD
from clipkit.training.preflight.units import human_bytes

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where torch's workers put their tensors


@dataclass(frozen=True, slots=True)
class LoaderPlan:
    """Worker processes of one machine, and the memory in which they hand over inputs.

    Args:
        num_workers: Worker processes per rank; 0 if the ranks build batches themselves.
        num_ranks: Ranks on this machine.
        num_cores: CPU cores that this process may use.
        shared_bytes: Shared memory that the inputs of prepared parts of batches take, at least.
        free_bytes: Free shared memory; None where the system does not show it.
    """

    num_workers: int
    num_ranks: int
    num_cores: int
    shared_bytes: int
    free_bytes: int | None


def make_loader_plan(
    sample_bytes: int, batch_sizes: Sequence[int], num_workers: int, num_ranks: int
) -> LoaderPlan:
    """Collect the numbers of this machine.

    Args:
        sample_bytes: Bytes of a sample's inputs: its image, and those of further modalities.
        batch_sizes: Samples per batch of a rank, in training, and in validation if there is any:
            while it runs, parts of training batches wait.
        num_workers: Worker processes per rank.
        num_ranks: Ranks on this machine.
    """
    # Parts that are ready or being made, and the one that is being joined.
    num_parts = num_workers * TASKS_AHEAD + 1 if num_workers else 0
    num_samples = num_parts * sum(_part_samples(size) for size in batch_sizes)
    return LoaderPlan(
        num_workers=num_workers,
        num_ranks=num_ranks,
        num_cores=_num_cores(),
        shared_bytes=num_ranks * num_samples * sample_bytes,
        free_bytes=_free_shared_bytes(),
    )


def _part_samples(batch_size: int) -> int:
    """Return the samples that a worker prepares at a time."""
    parts = BatchTask(0, 0, batch_size, 0, 0).parts(TASK_SAMPLES)
    return max(part.num_samples for part in parts)


def describe_loader(plan: LoaderPlan) -> str:
    """Return the workers of a machine as text.

    Examples:
        >>> describe_loader(LoaderPlan(8, 4, 32, 2**30, 2**34))
        '32 processes on 32 cores; at least 1 GiB of shared memory, 16 GiB free'
        >>> describe_loader(LoaderPlan(0, 1, 2, 0, None))
        'none: each rank builds its batches itself, on 2 cores'
    """
    if not plan.num_workers:
        return f"none: each rank builds its batches itself, on {plan.num_cores} cores"
    text = (
        f"{plan.num_workers * plan.num_ranks} processes on {plan.num_cores} cores; at least "
        f"{human_bytes(plan.shared_bytes)} of shared memory"
    )
    return text if plan.free_bytes is None else f"{text}, {human_bytes(plan.free_bytes)} free"


def loader_notes(plan: LoaderPlan) -> list[str]:
    """Return what the machine has too little of, each with a solution.

    Examples:
        >>> loader_notes(LoaderPlan(8, 4, 32, 2**30, 2**26))[0][:50]
        'workers hand over inputs in /dev/shm, which has 64'
    """
    notes = []
    num_processes = plan.num_workers * plan.num_ranks
    if num_processes > plan.num_cores:
        notes.append(
            f"{num_processes} worker processes share {plan.num_cores} cores: more than one per "
            f"core makes none faster; set data.num_workers to {_fitting(plan)} or less"
        )
    if plan.free_bytes is not None and plan.shared_bytes > plan.free_bytes:
        notes.append(
            f"workers hand over inputs in {_SHARED_MEMORY}, which has "
            f"{human_bytes(plan.free_bytes)} free and needs at least "
            f"{human_bytes(plan.shared_bytes)}: the run may end with a bus error; start the "
            f"container with --shm-size or --ipc=host, or use fewer workers"
        )
    return notes


def _fitting(plan: LoaderPlan) -> int:
    return max(1, plan.num_cores // plan.num_ranks)


def _num_cores() -> int:
    """Return the cores that this process may use, fewer than the machine's in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_shared_bytes() -> int | None:
    return shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None
