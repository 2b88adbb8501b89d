"""Join the parts of each batch, as worker processes return them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import final

import torch

from clipkit.data.order.partition import BatchTask
from clipkit.data.samples.faults import Fault
from clipkit.data.samples.joining import BatchJoiner, PadIds
from clipkit.data.stream.builder import BuildResult
from clipkit.data.stream.worker_errors import Failure
from clipkit.errors import DataError


def join_results(
    tasks: Iterable[BatchTask],
    parts: Iterator[BuildResult | Failure],
    *,
    max_samples: int,
    pad_ids: PadIds,
    device: int | None = None,
) -> Iterator[BuildResult | Failure]:
    """Yield the complete batch of each task, with its cursor, or the first error.

    Args:
        tasks: Tasks of complete batches.
        parts: Results of the parts of the tasks, in order; they may end early.
        max_samples: Number of samples of a part, at most.
        pad_ids: Padding of the captions.
        device: Number of the GPU for which batches are pinned; None for pageable memory.
    """
    if device is not None:
        torch.cuda.set_device(device)  # of this thread: pinning would start another GPU
    for task in tasks:
        num_parts = len(task.parts(max_samples))
        join = _ResultJoin(task, BatchJoiner(task.num_samples, pad_ids, device is not None))
        num_joined = 0
        for num_joined, result in enumerate(islice(parts, num_parts), 1):  # noqa: B007
            if isinstance(result, Failure):
                yield result
                return
            join.add(result)
        if num_joined < num_parts:
            return
        yield join.finish()


@final
class _ResultJoin:
    """Collects the parts of one batch."""

    def __init__(self, task: BatchTask, joiner: BatchJoiner) -> None:
        self._task, self._joiner = task, joiner
        self._is_empty = True
        self._faults: list[Fault] = []
        self._error: DataError | None = None
        self._padded = 0

    def add(self, result: BuildResult) -> None:
        self._faults += result.faults
        self._error = self._error or result.error
        self._padded += result.padded
        if result.batch is not None:
            self._joiner.add(result.batch)
            self._is_empty = False

    def finish(self) -> BuildResult:
        if self._error is not None or self._is_empty:
            return BuildResult(None, self._faults, self._error)
        task = self._task
        cursor = {
            "epoch": task.end_epoch,
            "position": task.end_position,
            "dropped": task.dropped,
            "padded": self._padded,
        }
        return BuildResult(replace(self._joiner.finish(), cursor=cursor), self._faults)
