"""Deliver built batches, move the cursor and report faults, for every source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, final

import torch.distributed as dist

from clipkit.data.order.partition import EpochPartition
from clipkit.data.samples.faults import FaultTracker
from clipkit.data.stream.cursor import Cursor
from clipkit.data.stream.workers import BatchLoader
from clipkit.distributed.world import World
from clipkit.errors import ConfigError, DataError
from clipkit.types import Batch


@final
class BatchDelivery:
    """Iterations over a source, of which the latest one is valid.

    Args:
        world: Rank of this process, and number of ranks.
        ledger: Tracker of the faults.
    """

    def __init__(self, world: World, ledger: FaultTracker) -> None:
        self.cursor = Cursor()
        self.ledger = ledger
        self._world = world
        self._iteration = 0
        self._loader: BatchLoader | None = None

    def run(self, partition: EpochPartition, start: Callable[[], BatchLoader]) -> Iterator[Batch]:
        """Yield the batches from the cursor to the epoch's end.

        Args:
            partition: Partition of epochs into steps.
            start: Starts the processes that build batches, if none are running.
        """
        self._iteration += 1
        number = self._iteration
        place = self.cursor.next
        epoch, position, _ = partition.start(*place)
        if self._loader is None:
            self._loader = start()
        self.cursor.begin()
        try:
            for built in self._loader.run(partition, *place):
                self.ledger.record(built.faults, epoch)
                if built.error is not None:
                    raise built.error
                if built.batch is not None:
                    assert built.batch.cursor is not None
                    self.cursor.hand_out(built.batch.cursor)
                    yield built.batch
                elif partition.tail == "even" and self._world.size > 1:
                    raise DataError(
                        f"no sample of a batch of rank {self._world.rank} can be used, and the "
                        f"other ranks would wait for it: {built.faults[0]}; fix the data, or use "
                        f"larger batches or fewer ranks"
                    )
                if self._iteration != number:
                    raise ConfigError(
                        "stream: a newer iteration has begun, or a state was loaded; the old "
                        "iteration cannot continue"
                    )
        except Exception:
            if self._iteration == number:
                self._end_workers()  # now: the error may keep this frame alive
            raise
        self.cursor.finish(partition.end(epoch, position))

    def restart(self) -> None:
        """End the current iteration and its workers."""
        self._iteration += 1
        self.cursor.abandon()
        self._end_workers()

    def commit(self, batch: Batch) -> None:
        """Move the cursor after a batch."""
        if batch.cursor is None:
            raise ConfigError("commit: expected a batch of this stream, got one without a cursor")
        self.cursor.commit(batch.cursor)
        self.ledger.add_padded(int(batch.cursor["padded"]))

    def sync_faults(self) -> None:
        """Share the faults of each rank with all ranks."""
        if self._world.size == 1:
            return
        if not dist.is_initialized() or dist.get_world_size() != self._world.size:
            raise ConfigError(
                f"sync_faults: expected a process group of {self._world.size} ranks, got "
                f"{dist.get_world_size() if dist.is_initialized() else 'none'}"
            )
        reports: list[Any] = [None] * self._world.size
        dist.all_gather_object(reports, self.ledger.unshared())
        self.ledger.share(reports)

    def _end_workers(self) -> None:
        if self._loader is not None:
            self._loader.close()
        self._loader = None

    def counters(self) -> dict[str, int]:
        """Count bad, padded and dropped samples."""
        return {
            "bad_samples": self.ledger.num_bad_samples,
            "bad_shards": len(self.ledger.bad_shards),
            "padded": self.ledger.num_padded,
            "dropped": self.cursor.dropped,
        }
