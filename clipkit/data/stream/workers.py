"""Build batches in this process or in advance in others, with the same result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import torch

from clipkit.data.order.partition import BatchTask, EpochPartition
from clipkit.data.samples.joining import PadIds
from clipkit.data.stream.background import Background
from clipkit.data.stream.builder import BuildResult
from clipkit.data.stream.joined_results import join_results
from clipkit.data.stream.worker_errors import Builder, Failure, GuardedBuilder

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

TASK_SAMPLES: Final = 128
"""Number of samples that a worker prepares at a time, at most: larger batches are divided."""
TASKS_AHEAD: Final = 2
"""Number of tasks that each worker prepares in advance."""
BATCHES_AHEAD: Final = 2
"""Number of batches that are joined in advance."""
_PATIENCE_SECONDS: Final = 30.0

_Tasks = Callable[[], Iterator[BatchTask]]
_Results = Iterator[BuildResult | Failure]


@final
class BatchLoader:
    """Runs tasks, in order, in persistent worker processes.

    Workers prepare parts of a batch, of at most ``TASK_SAMPLES`` samples, in turn. A thread of this
    process joins them, so that all workers take part in every batch, and shared memory holds only
    the parts that are under way.

    Args:
        builder: Builder of the samples of a task.
        num_workers: Number of processes; 0 builds in this one.
        pad_ids: Padding of the captions.
        builds_ahead: Whether processes without a task of this epoch begin the next one; otherwise
            they end with the epoch.
    """

    def __init__(
        self,
        builder: Builder,
        num_workers: int,
        pad_ids: PadIds,
        builds_ahead: bool = False,
    ) -> None:
        self._parts = _Parts()
        self._loader: DataLoader[Any] | None = None
        self._results: _Results | None = None
        self._upcoming: tuple[EpochPartition, int, int] | None = None
        self._builder = builder
        self._num_workers = num_workers
        self._pad_ids = pad_ids
        self._builds_ahead = builds_ahead

    def run(self, partition: EpochPartition, epoch: int, position: int) -> Iterator[BuildResult]:
        """Yield this rank's batches from a position to the epoch's end.

        Batches that were built in advance are used if they follow, otherwise discarded.

        Args:
            partition: Partition of epochs into steps.
            epoch: Epoch of the position.
            position: Position in the epoch; its end stands for the start of the next epoch.
        """
        start = partition.start(epoch, position)
        if self._results is None or self._upcoming != (partition, epoch, position):
            self._stop()
            self._results = self._begin(
                partial(partition.tasks_of_epochs, epoch, position)
                if self._builds_ahead
                else partial(partition.tasks, *start)
            )
        results, self._upcoming = self._results, None
        num_batches = partition.num_batches(*start[:2])
        try:
            for number in range(1, num_batches + 1):
                result = self._next(results)
                if self._builds_ahead and number == num_batches:
                    # Before the last batch: Lightning counts batches, and never asks for the end.
                    self._upcoming = (partition, *partition.end(*start[:2]))
                yield result
        finally:
            if not self._builds_ahead and self._results is results:
                self.close()

    def close(self) -> None:
        """End the worker processes."""
        self._stop()
        self._loader = None

    def _next(self, results: _Results) -> BuildResult:
        try:
            result = next(results)
            if isinstance(result, Failure):
                raise result.error
        except Exception:
            self.close()  # now: the error may keep this frame alive
            raise
        return result

    def _begin(self, tasks: _Tasks) -> _Results:
        """Start the tasks, in the processes that are running, if any are."""
        is_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        device = torch.cuda.current_device() if is_used else None
        if not self._num_workers:
            built = map(GuardedBuilder(self._builder).__getitem__, tasks())
            return join_results(
                tasks(), built, max_samples=sys.maxsize, pad_ids=self._pad_ids, device=device
            )
        if self._loader is None:
            self._parts = _Parts()
            self._loader = self._start()
        self._parts.tasks = tasks
        # No reference to this object, whose deletion ends the thread.
        join = partial(
            join_results, tasks(), max_samples=TASK_SAMPLES, pad_ids=self._pad_ids, device=device
        )
        return Background(_received(iter(self._loader)), join, BATCHES_AHEAD)

    def _stop(self) -> None:
        """End the current tasks; the processes wait for others."""
        results, self._results, self._upcoming = self._results, None, None
        if isinstance(results, Background) and not results.close(_PATIENCE_SECONDS):
            self._loader = None  # it answers the old tasks, when it does

    def _start(self) -> DataLoader[Any]:
        from torch.utils.data import DataLoader

        return DataLoader(
            GuardedBuilder(self._builder),  # type: ignore[arg-type]
            sampler=self._parts,
            batch_size=None,
            num_workers=self._num_workers,
            persistent_workers=self._builds_ahead,
            prefetch_factor=TASKS_AHEAD,
            # A separate generator: the global one must not depend on the number of iterations.
            generator=torch.Generator(),
        )


@final
class _Parts:
    """The parts of the batches of the current tasks, in the place of a sampler."""

    def __init__(self) -> None:
        self.tasks: _Tasks = lambda: iter(())

    def __iter__(self) -> Iterator[BatchTask]:
        return (part for task in self.tasks() for part in task.parts(TASK_SAMPLES))


def _received(parts: Iterator[BuildResult | Failure]) -> _Results:
    """Yield what worker processes hand over, and name them when that fails.

    A process that is killed while it hands over samples breaks a connection, whose error says
    nothing about processes. Errors of samples are a ``Failure`` and never raised here.
    """
    while True:
        try:
            part = next(parts)
        except StopIteration:
            return
        except (OSError, EOFError) as error:
            cause = f"{type(error).__name__}: {error}"
        else:
            yield part
            continue
        # Outside of the handler: the error would keep the frames of the loader, and its processes.
        raise RuntimeError(
            f"a worker process of the data ended, or could not hand over its samples ({cause}); "
            "the kernel kills one when memory is full: lower num_workers or the batch size"
        )
