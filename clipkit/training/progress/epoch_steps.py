"""Count steps and samples of epochs, also if the batch size grows during a run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import count

from clipkit.data.order.partition import EpochPartition


def limit_batches(num_batches: int, limit: float) -> int:
    """Apply Lightning's ``limit_train_batches`` to a number of batches.

    Examples:
        >>> limit_batches(10, 3), limit_batches(10, 0.5), limit_batches(10, 1.0)
        (3, 5, 10)
    """
    return min(num_batches, limit) if isinstance(limit, int) else int(num_batches * limit)


@lru_cache(maxsize=8)
def samples_of_epochs(partition: EpochPartition, num_epochs: int, limit: float) -> int:
    """Count the samples of all ranks in ``num_epochs`` epochs, from the first one on."""
    total, position = 0, 0
    for epoch in range(num_epochs):
        samples = sum(steps * size for steps, size in _steps_of(partition, epoch, position, limit))
        following = _next_position(partition, epoch, position, limit)
        if partition.is_settled(epoch) and position == following == 0:
            return total + (num_epochs - epoch) * samples  # from here on, all epochs are equal
        total += samples
        position = following
    return total


def steps_for(partition: EpochPartition, samples: float, limit: float) -> int:
    """Count the steps until ``samples`` samples are trained on, from the first epoch on."""
    taken, position = 0, 0
    for epoch in count():
        if limit_batches(partition.num_batches(epoch, position), limit) == 0:
            return taken  # no samples are trained on in any number of epochs
        for steps, size in _steps_of(partition, epoch, position, limit):
            if steps * size >= samples:
                return taken + int(-(-samples // size))
            taken += steps
            samples -= steps * size
        position = _next_position(partition, epoch, position, limit)
    raise AssertionError("unreachable")


def _steps_of(
    partition: EpochPartition, epoch: int, position: int, limit: float
) -> Iterator[tuple[int, int]]:
    """Yield the steps of an epoch in groups of one size, and the samples per step."""
    left = limit_batches(partition.num_batches(epoch, position), limit)
    for uniform in partition.uniform_steps(epoch, position):
        steps = min(left, uniform.num_steps)
        yield steps, uniform.batch_size * partition.world_size
        left -= steps


def _next_position(partition: EpochPartition, epoch: int, position: int, limit: float) -> int:
    """Return the start of the next epoch, after the samples that the last step consumed."""
    num_batches = partition.num_batches(epoch, position)
    is_cut = limit_batches(num_batches, limit) < num_batches
    return 0 if is_cut else partition.end(epoch, position)[1]
