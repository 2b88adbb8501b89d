"""Where a stage of the run ends in the order of samples, against a walk over all batches."""

from __future__ import annotations

from itertools import islice

import pytest

from clipkit.data import BatchSizeStage
from clipkit.data.order.partition import EpochPartition
from clipkit.training.progress.epoch_steps import NEVER, limit_batches, place_where
from clipkit.when import When

STAGES = (BatchSizeStage(1, When(samples=10)), BatchSizeStage(2, When(samples=40)))


def walk(partition, limit, accumulated):
    """Yield the place of each optimizer step with the samples before it, as Lightning trains."""
    samples, epoch, position = 0, 0, 0
    while True:
        tasks = list(partition.tasks(epoch, position))
        last = limit_batches(len(tasks), limit)
        for number, task in enumerate(tasks[:last]):
            if number % accumulated == 0:
                yield samples, (epoch, task.first - partition.rank * task.num_samples)
                samples += task.num_samples * partition.world_size * accumulated
        position = tasks[-1].end_position if last == len(tasks) else 0
        epoch += 1


@pytest.mark.parametrize(
    ("options", "limit", "accumulated"),
    [
        ({}, 1.0, 1),
        ({"rank": 1, "world_size": 2}, 1.0, 1),
        ({}, 1.0, 2),
        ({}, 3, 2),
        ({"stages": STAGES}, 1.0, 1),
        ({"carries": True}, 1.0, 1),
        ({"carries": True, "stages": STAGES}, 1.0, 1),
    ],
    ids=["steps", "ranks", "accumulation", "short epochs", "batch sizes", "mixture", "both"],
)
def test_equals_a_walk(options, limit, accumulated):
    defaults = {"rank": 0, "world_size": 1, "tail": "drop"}
    partition = EpochPartition(23, 4, **{**defaults, **options})
    steps = list(islice(walk(partition, limit, accumulated), 140))
    for before, start in steps[:60:3]:
        for wanted in range(0, 240, 7):
            expected = next(place for samples, place in steps if samples >= max(wanted, before))
            found = place_where(
                partition,
                start,
                lambda more: before + more >= wanted,  # noqa: B023 - called at once
                limit,
                accumulated,
            )
            assert found == expected, (start, wanted)


def test_far_away_and_nowhere():
    partition = EpochPartition(23, 4, 0, 1, "drop")
    assert place_where(partition, (0, 8), lambda samples: samples >= 10**15)[0] > 10**13
    assert place_where(partition, (0, 0), lambda samples: samples > 0, limit=0) == NEVER
