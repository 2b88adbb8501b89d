"""How many steps and samples epochs have, where the batch grows during a run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import count

from clipkit.data.order.partition import EpochPartition


def limit_batches(num_batches: int, limit: float) -> int:
    """How many of an epoch's batches Lightning's ``limit_train_batches`` lets through.

    Examples:
        >>> limit_batches(10, 3), limit_batches(10, 0.5), limit_batches(10, 1.0)
        (3, 5, 10)
    """
    return min(num_batches, limit) if isinstance(limit, int) else int(num_batches * limit)


@lru_cache(maxsize=8)
def samples_of_epochs(partition: EpochPartition, num_epochs: int, limit: float) -> int:
    """Samples of all ranks that so many epochs train on, from the first one on.

    Args:
        partition: How they are cut into steps.
        num_epochs: Their number.
        limit: Lightning's ``limit_train_batches``.
    """
    total, position = 0, 0
    for epoch in range(num_epochs):
        samples = sum(steps * size for steps, size in _steps_of(partition, epoch, position, limit))
        following = _next_position(partition, epoch, position, limit)
        if partition.is_settled(epoch) and position == following == 0:
            return total + (num_epochs - epoch) * samples  # from here on, epochs are all alike
        total += samples
        position = following
    return total


def steps_for(partition: EpochPartition, samples: float, limit: float) -> int:
    """Steps of all ranks until so many samples are trained on, from the first epoch on.

    Args:
        partition: How epochs are cut into steps.
        samples: Of all ranks; the step that reaches them counts.
        limit: Lightning's ``limit_train_batches``.
    """
    taken, position = 0, 0
    for epoch in count():
        if limit_batches(partition.num_batches(epoch, position), limit) == 0:
            return taken  # nothing is trained on, however many epochs there are
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
    """The steps of an epoch, in numbers of one size, and the samples of each."""
    left = limit_batches(partition.num_batches(epoch, position), limit)
    for uniform in partition.uniform_steps(epoch, position):
        steps = min(left, uniform.num_steps)
        yield steps, uniform.batch_size * partition.world_size
        left -= steps


def _next_position(partition: EpochPartition, epoch: int, position: int, limit: float) -> int:
    """Where the next epoch begins: behind what the last step took of it, if that step is taken."""
    num_batches = partition.num_batches(epoch, position)
    is_cut = limit_batches(num_batches, limit) < num_batches
    return 0 if is_cut else partition.end(epoch, position)[1]
