"""Build a batch, or a part of one, from the next samples of a pipeline, without bad ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, count, islice
from typing import Any, final

from torch.utils.data import get_worker_info

from clipkit.data.order.partition import BatchTask
from clipkit.data.samples.embedding_dims import EmbeddingDims
from clipkit.data.samples.faults import Fault
from clipkit.data.samples.maker import SampleMaker
from clipkit.data.shards.reader import RawSample
from clipkit.data.stream.builder import MAX_REPLACEMENTS, BuildResult, kept_fault
from clipkit.data.stream.threads import Threads
from clipkit.data.stream.webdataset_shards import WebSample
from clipkit.data.stream.webdataset_stages import as_raw_sample, draw_seed, launched_as
from clipkit.distributed.world import World
from clipkit.errors import DataError, SampleError
from clipkit.types import Sample

Pipeline = Callable[[int, list[Fault]], Iterable[WebSample]]
"""``(seed, faults) -> samples of this worker``; faults are added to the list."""

_Numbered = tuple[int, RawSample]


@final
class SequentialBuilder:
    """Builds batches, or parts of them, each from the samples after those of the last one.

    A worker process keeps its place in the pipeline from task to task and from epoch to epoch. A
    pipeline that ends is opened again with another seed.

    Args:
        pipeline: Opens the pipeline.
        maker: Converts raw samples to samples.
        world: Rank of this process, and number of ranks.
        seed: Seed of this start, the same on all ranks.
        num_threads: Number of samples of a batch that are prepared at the same time.
    """

    def __init__(
        self, pipeline: Pipeline, maker: SampleMaker, world: World, seed: int, num_threads: int
    ) -> None:
        self._pipeline = pipeline
        self._maker = maker
        self._world = world
        self._seed = seed
        self._threads = Threads(num_threads)
        self._faults: list[Fault] = []
        self._samples: Iterator[_Numbered] | None = None
        self._first: Sample | None = None
        self._dims = EmbeddingDims(self._first_sample, first_ids=[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_samples": None}

    def build(self, task: BatchTask) -> BuildResult:
        """Build a batch, or a part of one, of the task's size."""
        try:
            maker = self._maker.at_size(task.image_size)
            samples = self._next_samples(maker, task.num_samples)
        except DataError as error:
            self._samples = None  # an iterator is over after its error
            return BuildResult(None, self._take_faults(), error)
        return BuildResult(self._maker.join(samples), self._take_faults())

    def _next_samples(self, maker: SampleMaker, wanted: int) -> list[Sample]:
        if self._samples is None:
            self._samples = enumerate(self._endless())
        samples: list[Sample] = []
        bad = 0
        while len(samples) < wanted:
            raw = list(islice(self._samples, wanted - len(samples)))
            made = list(map(self._checked, self._threads.map(partial(self._make, maker), raw)))
            usable = [sample for sample in made if isinstance(sample, Sample)]
            self._faults += [fault for fault in made if isinstance(fault, Fault)]
            samples += usable
            bad = 0 if usable else bad + len(made)
            if bad >= MAX_REPLACEMENTS:
                raise DataError(
                    f"no usable sample among {bad} consecutive ones; the last fault: {made[-1]}"
                )
        return samples

    def _make(self, maker: SampleMaker, numbered: _Numbered) -> tuple[RawSample, Sample | str]:
        number, raw = numbered
        # A sample that is read again has other random numbers.
        worker = get_worker_info()
        nonces = (self._seed, self._world.rank, worker.id if worker else 0, number)
        try:
            return raw, maker.make(raw.key, raw.members, sample_id(raw), nonces)
        except SampleError as error:
            return raw, error.reason

    def _checked(self, made: tuple[RawSample, Sample | str]) -> Sample | Fault:
        raw, sample = made
        if isinstance(sample, Sample):
            self._first = self._first or sample
            try:
                self._dims.check(sample)
                self._faults += kept_fault(raw, sample)
                return sample
            except SampleError as error:
                sample = error.reason
        return Fault(raw.shard, raw.index, raw.key, sample, sample_id(raw))

    def _first_sample(self, _: int) -> Sample:
        assert self._first is not None
        return self._first

    def _endless(self) -> Iterator[RawSample]:
        for number in count():
            with launched_as(self._world):
                iterator = iter(self._pipeline(draw_seed(self._seed, number), self._faults))
                first = next(iterator, None)
            if first is None:
                raise DataError(
                    f"webdataset pipeline: no sample for a worker of rank {self._world.rank} of "
                    f"{self._world.size}; expected at least as many shards as ranks times workers"
                )
            yield from map(as_raw_sample, chain([first], iterator))

    def _take_faults(self) -> list[Fault]:
        taken = list(self._faults)
        self._faults.clear()  # the pipeline has a reference to the list
        return taken


def sample_id(raw: RawSample) -> int:
    """Return an id that a sample has in every pass: a hash of its shard and key."""
    digest = hashlib.blake2b(f"{raw.shard}\0{raw.key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
