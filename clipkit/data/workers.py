"""Batches built in this process or ahead of time in others; the same batches either way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, final

import torch

from clipkit.data.samples import BatchBuilder, Built
from clipkit.data.slicing import Task
from clipkit.errors import DataError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

_BATCHES_AHEAD: Final = 4
"""Batches that each worker builds before they are asked for."""


@final
class BatchLoader:
    """Runs tasks, in order, in persistent worker processes.

    Args:
        builder: Builds the batch of a task.
        num_workers: Processes; 0 builds in this one.
    """

    def __init__(self, builder: BatchBuilder, num_workers: int) -> None:
        self._tasks = _Tasks()
        self._loader: DataLoader[Any] | None = None
        self._builder = builder
        self._num_workers = num_workers

    def run(self, tasks: Callable[[], Iterator[Task]]) -> Iterator[Built]:
        """The batches of ``tasks()``; what an earlier, unfinished run left over is dropped.

        Raises:
            DataError: If a batch cannot be built.
            OSError: If this machine is out of files, memory or disk.
        """
        if self._loader is None:
            self._loader = self._start()
        self._tasks.current = tasks
        for result in self._loader:
            if isinstance(result, Exception):
                raise result
            yield result

    def _start(self) -> DataLoader[Any]:
        from torch.utils.data import DataLoader

        return DataLoader(
            _Guarded(self._builder),  # type: ignore[arg-type]
            sampler=self._tasks,
            batch_size=None,
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            prefetch_factor=_BATCHES_AHEAD if self._num_workers else None,
            pin_memory=torch.cuda.is_available(),
            # A generator of its own: the global one must not depend on how often we iterate.
            generator=torch.Generator(),
        )


@final
class _Guarded:
    """Returns errors instead of raising them: a loader would wrap them into other text."""

    def __init__(self, builder: BatchBuilder) -> None:
        self._builder = builder

    def __getitem__(self, task: Task) -> Built | Exception:
        try:
            return self._builder.build(task)
        except (DataError, OSError) as error:
            return error


@final
class _Tasks:
    """The tasks of the current run, in the place of a sampler."""

    def __init__(self) -> None:
        self.current: Callable[[], Iterator[Task]] = lambda: iter(())

    def __iter__(self) -> Iterator[Task]:
        return self.current()
