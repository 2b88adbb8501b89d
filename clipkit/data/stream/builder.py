"""Build a batch, or a part of one, from consecutive positions, with bad samples replaced."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.order.base import SampleIds, SampleOrder
from clipkit.data.order.length_buckets import LengthBucketing, LengthWindows
from clipkit.data.order.partition import BatchTask
from clipkit.data.samples.embedding_dims import TRIED_SAMPLES, EmbeddingDims
from clipkit.data.samples.faults import WHOLE_SHARD, Fault
from clipkit.data.samples.maker import SampleMaker
from clipkit.data.shards.reader import RawSample, ShardReader
from clipkit.data.stream.threads import Threads
from clipkit.errors import DataError, SampleError, ShardError
from clipkit.types import Batch, Sample

MAX_REPLACEMENTS: Final = 256
"""Number of consecutive bad samples after which a batch is given up."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """Result of a task.

    Args:
        batch: Samples of the task; None if none can be used and none is replaced. Until all parts
            of a batch are joined it has no cursor.
        faults: Samples and shards that could not be used.
        error: Error if a bad sample could not be replaced; reported after the faults.
        padded: Number of samples that are repeated in place of others.
    """

    batch: Batch | None
    faults: list[Fault]
    error: DataError | None = None
    padded: int = 0


@final
class BatchBuilder:
    """Builds the batch, or part of a batch, of a task, in a worker process.

    Args:
        reader: Reader of raw samples.
        maker: Converts raw samples to samples.
        order: Order of the samples.
        num_threads: Number of samples of a batch that are prepared at the same time.
        windows: Windows in which captions are sorted by length; None for no sorting.
    """

    def __init__(
        self,
        reader: ShardReader,
        maker: SampleMaker,
        order: SampleOrder,
        num_threads: int = 1,
        windows: LengthWindows | None = None,
    ) -> None:
        self._reader = reader
        self._maker = maker
        self._order = order
        self._bucketing = (
            None if windows is None else LengthBucketing(windows, order.num_samples, maker.seed)
        )
        self._dims = EmbeddingDims(self._first, reader.kept.first_ids(TRIED_SAMPLES))
        self._threads = Threads(num_threads)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def build(self, task: BatchTask) -> BuildResult:
        """Build the samples of a task, which may be a part of a batch."""
        wanted = np.arange(task.first, task.first + task.num_samples, dtype=np.int64)
        rounds, positions = np.divmod(wanted, self._order.num_samples)
        epochs = task.epoch + rounds * task.continues
        chosen = self._samples_at(epochs, positions)
        self._prefetch(task.epoch, epochs, positions, chosen)
        columns = (epochs, positions, chosen.ids, chosen.passes)
        places = list(zip(*(column.tolist() for column in columns), strict=True))
        maker = self._maker.at_size(task.image_size)
        made = self._threads.map(lambda place: self._one(maker, *place), places)
        samples = [sample for sample, _ in made if sample is not None]
        faults = [fault for _, found in made for fault in found]
        replaced = sum(
            1 for sample, found in made if sample is not None and not all(f.is_kept for f in found)
        )
        padded = replaced + int(not task.continues and np.count_nonzero(rounds))
        for sample, found in made:
            if sample is None and len(found) == MAX_REPLACEMENTS:
                error = DataError(
                    f"no usable sample in a lane, in {MAX_REPLACEMENTS} tries; the last fault: "
                    f"{found[-1]}"
                )
                return BuildResult(None, faults, error)
        if not samples:
            return BuildResult(None, faults, padded=padded)
        batch = self._maker.join(samples)
        if task.num_equal_ranks and self._order.replaces:
            batch.rank_sizes = (task.num_samples,) * task.num_equal_ranks
        return BuildResult(batch, faults, padded=padded)

    def _samples_at(
        self, epochs: Int64[np.ndarray, " B"], positions: Int64[np.ndarray, " B"]
    ) -> SampleIds:
        """Return the samples at some positions; ``positions`` become those before sorting."""
        ids, passes = np.empty_like(positions), np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            mine = epochs == epoch
            if self._bucketing is not None:
                positions[mine] = self._bucketing.positions(epoch, positions[mine], self._lengths)
            chosen = self._order.samples_at(epoch, positions[mine])
            ids[mine], passes[mine] = chosen.ids, chosen.passes
        return SampleIds(ids, passes)

    def _lengths(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return the lengths of the samples at some positions; 0 for bad samples."""
        chosen = self._order.samples_at(epoch, positions)
        if not self._reader.is_local:
            self._reader.prefetch(chosen.ids, self._maker.unread_for_length, wait=True)
        items = list(zip(chosen.ids.tolist(), chosen.passes.tolist(), strict=True))
        return np.array(self._threads.map(lambda item: self._length(*item), items), dtype=np.int64)

    def _length(self, sample_id: int, number_of_pass: int) -> int:
        try:
            raw = self._reader.read(sample_id, leave_out=self._maker.unread_for_length)
        except ShardError:
            return 0  # reported when the sample is read
        return self._maker.length(raw.members, sample_id, [number_of_pass])

    def _prefetch(
        self,
        first_epoch: int,
        epochs: Int64[np.ndarray, " B"],
        positions: Int64[np.ndarray, " B"],
        chosen: SampleIds,
    ) -> None:
        """Fetch remote shards in parallel: those of this batch, and of the next window."""
        if self._reader.is_local:
            return
        self._reader.prefetch(chosen.ids, wait=True)
        total = self._order.num_samples
        later = (epochs - first_epoch) * total + positions + self._order.lookahead
        for epoch in (first_epoch, first_epoch + 1):
            there = later[later // total == epoch - first_epoch] % total
            if len(there):
                self._reader.prefetch(self._order.samples_at(epoch, there).ids)

    def _one(
        self, maker: SampleMaker, epoch: int, position: int, sample_id: int, number_of_pass: int
    ) -> tuple[Sample | None, list[Fault]]:
        """Return the sample at a position, or its substitute, and the faults."""
        faults: list[Fault] = []
        nonces = [number_of_pass]
        for attempt in range(MAX_REPLACEMENTS):
            sample = self._try(maker, sample_id, nonces, faults)
            if sample is not None:
                return sample, faults
            with self._lock:
                substitute = self._order.replacement(epoch, position, attempt)
            if substitute is None:
                return None, faults
            sample_id = int(substitute.ids[0])
            nonces = [int(substitute.passes[0]), position, attempt + 1]
        return None, faults

    def _try(
        self, maker: SampleMaker, sample_id: int, nonces: Sequence[int], faults: list[Fault]
    ) -> Sample | None:
        try:
            raw = self._reader.read(sample_id)
        except ShardError as error:
            faults.append(Fault(self._reader.url_of(sample_id), WHOLE_SHARD, "", str(error)))
            return None
        try:
            sample = maker.make(raw.key, raw.members, sample_id, nonces)
            self._dims.check(sample)
        except SampleError as error:
            faults.append(Fault(raw.shard, raw.index, raw.key, error.reason, sample_id))
            return None
        faults.extend(kept_fault(raw, sample))
        return sample

    def _first(self, sample_id: int) -> Sample:
        """Create a sample as in the first pass."""
        raw = self._reader.read(sample_id)
        return self._maker.make(raw.key, raw.members, sample_id, [0])


def kept_fault(raw: RawSample, sample: Sample) -> list[Fault]:
    """Return the fault of a sample that is used without some of its inputs, if it is one."""
    reason = "; ".join(sample.faults)
    fault = Fault(raw.shard, raw.index, raw.key, reason, sample.sample_id, is_kept=True)
    return [fault] if sample.faults else []
