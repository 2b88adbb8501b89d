"""Count steps and samples of epochs, also if the batch size grows during a run."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count
from typing import Final

from clipkit.data.order.partition import EpochPartition

_ENDLESS: Final = 2**62
NEVER: Final = (_ENDLESS, 0)
"""A place that no run reaches."""


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


def place_where(
    partition: EpochPartition,
    place: tuple[int, int],
    is_reached: Callable[[int], bool],
    limit: float = 1.0,
    accumulated_batches: int = 1,
) -> tuple[int, int]:
    """Return epoch and position of the first optimizer step that begins after a moment.

    Args:
        partition: Partition of epochs into steps.
        place: Epoch and position between two optimizer steps.
        is_reached: Whether the moment is reached after a number of samples from ``place`` on; false
            first, then true. Incomplete windows of accumulated gradients count as complete ones.
        limit: Lightning's ``limit_train_batches``.
        accumulated_batches: Batches per optimizer step; an epoch's last step may have fewer.

    Examples:
        >>> partition = EpochPartition(8, batch_size=2, rank=0, world_size=1, tail="drop")
        >>> place_where(partition, (0, 2), lambda samples: samples >= 10)
        (1, 4)
    """
    epoch, position, _ = partition.start(*place)
    samples = 0
    while True:
        before = samples
        done, total = partition.progress(epoch, position)
        last = limit_batches(total, limit)
        left, offset = max(0, last - done), done % accumulated_batches
        for uniform in partition.uniform_steps(epoch, position):
            batches = min(left, uniform.num_steps)
            steps = -(-(batches + offset) // accumulated_batches) if batches else 0
            batch_samples = uniform.batch_size * partition.world_size
            size = batch_samples * accumulated_batches
            step = _first(is_reached, samples, size, steps)
            if step < steps:
                first_batch = max(0, step * accumulated_batches - offset)
                return epoch, uniform.position + first_batch * batch_samples
            samples, left, offset = samples + steps * size, left - batches, 0
        following = 0 if last < total else partition.end(epoch, position)[1]
        if partition.is_settled(epoch) and position == following == 0:
            if samples == before:
                return NEVER  # no epoch has a step
            # From here on, all epochs are equal.
            skipped = max(0, _first(is_reached, samples, samples - before, _ENDLESS) - 1)
            epoch, samples = epoch + skipped, samples + skipped * (samples - before)
        epoch, position = epoch + 1, following


def _first(is_reached: Callable[[int], bool], samples: int, size: int, number: int) -> int:
    """Return the first of some parts of one size that begins after a moment, or their number."""
    return bisect_left(range(number), True, key=lambda part: is_reached(samples + part * size))


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
