"""Build batches in this process or in advance in others, with the same result."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import torch

from clipkit.data.order.partition import BatchTask, EpochPartition
from clipkit.data.stream.builder import BuildResult
from clipkit.errors import ClipkitError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

BATCHES_AHEAD: Final = 2
"""Number of batches that each worker builds in advance."""


class Builder(Protocol):
    """Builds the batch of a task, in a worker process."""

    def build(self, task: BatchTask) -> BuildResult:
        """Build the batch of a task."""
        ...


@final
class BatchLoader:
    """Runs tasks, in order, in persistent worker processes.

    Args:
        builder: Builder of the batch of a task.
        num_workers: Number of processes; 0 builds in this one.
        builds_ahead: Whether processes without a task of this epoch begin the next one.
    """

    def __init__(self, builder: Builder, num_workers: int, builds_ahead: bool = False) -> None:
        self._tasks = _Tasks()
        self._loader: DataLoader[Any] | None = None
        self._results: Iterator[BuildResult | _Failure] | None = None
        self._upcoming: tuple[EpochPartition, int, int] | None = None
        self._builder = builder
        self._num_workers = num_workers
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
            self._tasks.current = (
                partial(partition.tasks_of_epochs, epoch, position)
                if self._builds_ahead
                else partial(partition.tasks, *start)
            )
            if self._loader is None:
                self._loader = self._start()
            self._results = iter(self._loader)
        self._upcoming = None
        num_batches = partition.num_batches(*start[:2])
        for number in range(1, num_batches + 1):
            result = next(self._results)
            if isinstance(result, _Failure):
                # End the workers now: the error may keep this frame alive.
                self._loader = self._results = None
                raise result.error
            if self._builds_ahead and number == num_batches:
                # Before the last batch: Lightning counts batches, and never asks for the end.
                self._upcoming = (partition, *partition.end(*start[:2]))
            yield result

    def _start(self) -> DataLoader[Any]:
        from torch.utils.data import DataLoader

        return DataLoader(
            _Guarded(self._builder),  # type: ignore[arg-type]
            sampler=self._tasks,
            batch_size=None,
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            prefetch_factor=BATCHES_AHEAD if self._num_workers else None,
            pin_memory=torch.cuda.is_available(),
            # A separate generator: the global one must not depend on the number of iterations.
            generator=torch.Generator(),
        )


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error of a worker on its way to the main process."""

    error: Exception


@final
class _Guarded:
    """Returns errors instead of raising them: a loader would wrap them into other text."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def __getitem__(self, task: BatchTask) -> BuildResult | _Failure:
        try:
            return self._builder.build(task)
        except Exception as error:
            return _Failure(_portable(error))


def _portable(error: Exception) -> Exception:
    """Return the error so that another process can raise it, with a note of its origin."""
    trace = "".join(traceback.format_exception(error))
    try:
        portable: Exception = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert isinstance(portable, type(error))
    except Exception:
        portable = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, ClipkitError):
        portable.add_note(f"in a worker process:\n{trace}")
    return portable


@final
class _Tasks:
    """The tasks of the current run, in the place of a sampler."""

    def __init__(self) -> None:
        self.current: Callable[[], Iterator[BatchTask]] = lambda: iter(())

    def __iter__(self) -> Iterator[BatchTask]:
        return self.current()
