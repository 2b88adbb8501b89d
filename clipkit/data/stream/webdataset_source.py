"""Batches of shards that webdataset reads from front to back, in an order that is not exact."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final, final

from clipkit.data.order.image_sizes import ImageSizeStage
from clipkit.data.order.partition import EpochPartition, check_stages
from clipkit.data.samples.faults import FaultOptions
from clipkit.data.samples.maker import Transform
from clipkit.data.shards.masks.sample_mask import MaskSummary
from clipkit.data.shards.reader import RawSample
from clipkit.data.stream.checks import (
    TRIED_SAMPLES,
    CaptionFacts,
    caption_facts,
    check_options,
    check_samples,
    check_sequential_order,
    check_sizes,
    check_threads,
)
from clipkit.data.stream.defaults import default_transform, make_delivery, make_maker, world_of
from clipkit.data.stream.options import OrderOptions, SampleOptions
from clipkit.data.stream.state import STATE_VERSION, check_sequential_state
from clipkit.data.stream.webdataset_builder import SequentialBuilder
from clipkit.data.stream.webdataset_shards import WebDatasetShards
from clipkit.data.stream.webdataset_stages import (
    OwnPipeline,
    ShardPipeline,
    draw_seed,
)
from clipkit.data.stream.workers import BatchLoader
from clipkit.data.text.tokenizer import Encoder
from clipkit.types import Batch

_LOG: Final = logging.getLogger(__name__)
_DEFAULT_BUFFER: Final = 1000


@final
class WebDatasetSource:
    """Batches of image-text pairs that webdataset reads, for data that no exact index can serve.

    Shards are read from front to back, also the output of commands, and nothing is stored on the
    disk. webdataset splits them over ranks and workers and shuffles them through a buffer. Samples
    are then made as in ``PairStream``. An epoch is a number of samples, the same on every rank,
    after which reading continues: passes over the shards have no end.

    **The order is not exact.** It depends on the numbers of ranks and workers, and every start
    shuffles anew: after a resume, some samples are read again and others later than they would
    have been. The state holds the number of samples seen.

    Args:
        shards: Shards, the length of an epoch, and how they are read.
        tokenizer: Encodes the captions; see ``PairStream``.
        batch_size: Number of samples in a batch of one rank.
        seed: Seed for the order, the augmentation and the selection of captions.
        image_size: Width and height of the images in pixels, if ``image_transform`` is None.
        image_transform: Function from an image file and a random generator to uint8 pixels
            ``[3 H W]``; None for random crops.
        num_workers: Number of processes that read shards and build batches; 0 for the calling
            process.
        rank: Rank of this process among those that share an epoch; None reads the environment.
        world_size: Number of processes that share an epoch; None reads the environment.
        order: ``shuffle_window`` is the number of samples in the shuffle buffer of a worker (None:
            1000), and ``batch_size_stages`` applies; other options need an exact order.
        samples: Captions, labels and further fields of a sample.
        faults: How many bad samples and shards are allowed, and where they are logged.

    Raises:
        ConfigError: If an option needs an exact order, or an epoch has no complete step.
        DataError: If the first samples have no image or no caption, or a pipe is not allowed.

    Examples:
        >>> shards = WebDatasetShards("data/train", num_samples=8)
        >>> source = WebDatasetSource(shards, tokenizer=OpenClipTokenizer(), batch_size=4,
        ...                           image_size=64)
        >>> for batch in source:
        ...     # train on the batch here
        ...     source.commit(batch)
        >>> source.state_dict()["samples_seen"]
        8
    """

    def __init__(
        self,
        shards: WebDatasetShards,
        *,
        tokenizer: Encoder | Callable[..., Any],
        batch_size: int,
        seed: int = 0,
        image_size: int = 224,
        image_transform: Transform | None = None,
        num_workers: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        order: OrderOptions = OrderOptions(),
        samples: SampleOptions = SampleOptions(),
        faults: FaultOptions = FaultOptions(),
    ) -> None:
        check_options(seed, num_workers, order, samples.num_threads)
        check_threads(samples.num_threads, image_transform)
        check_sequential_order(order, shards.pipeline is not None)
        self._world = world = world_of(rank, world_size)
        self._seed = seed
        self._num_workers, self._num_threads = num_workers, samples.num_threads
        self._shards = shards.find()
        buffer = order.shuffle_window or _DEFAULT_BUFFER
        self._pipeline = (
            ShardPipeline(self._shards, shards.resampled, buffer, faults.max_bad_shards)
            if shards.pipeline is None
            else OwnPipeline(shards.pipeline, list(self._shards.addresses))
        )
        transform = image_transform or default_transform(image_size, shuffle=True)
        self._maker = make_maker(tokenizer, transform, samples, seed)
        self._declared_samples = num_samples = shards.num_samples
        self._partition = _partition_of(num_samples, batch_size, world.rank, world.size, order)
        if first := self._first_samples(TRIED_SAMPLES):
            check_samples(first, self._maker)
        self._delivery = make_delivery(world, faults, num_samples)
        self._samples_seen = 0
        self._num_starts = 0

    def __len__(self) -> int:
        """Return the number of batches of this rank in the epoch of the next batch."""
        epoch, position, _ = self._partition.start(*self._delivery.cursor.next)
        return self._partition.progress(epoch, position)[1]

    @property
    def is_exact(self) -> bool:
        """Return False: every start shuffles anew."""
        return False

    @property
    def partition(self) -> EpochPartition:
        """Partition of epochs into steps."""
        return self._partition

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and position after the last committed batch."""
        return self._delivery.cursor.committed

    @property
    def num_samples(self) -> int:
        """Number of samples in an epoch, over all ranks."""
        return self._partition.num_samples

    @property
    def num_shards(self) -> int:
        """Number of shards; 0 if only the user's pipeline knows them."""
        return len(self._shards.addresses)

    @property
    def masks(self) -> Sequence[MaskSummary]:
        """Return none: a mask needs an index."""
        return ()

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches from here to the epoch's end; workers start with the first one.

        Raises:
            FaultBudgetExceeded: If more samples or shards are bad than allowed.
            DataError: If no sample can be read any more.
            OSError: If this machine is out of files, memory or disk.
        """
        # As a generator: sizes of images may be set between this call and the first batch.
        yield from self._delivery.run(self._partition, self._start_workers)

    def commit(self, batch: Batch) -> None:
        """Record that a batch has been trained on.

        Args:
            batch: Batch of this source, or its copy on a device.

        Raises:
            ConfigError: If the batch has no cursor, so is not a batch of a source.
        """
        epoch, position = self._delivery.cursor.committed
        self._delivery.commit(batch)
        next_epoch, next_position = self._delivery.cursor.committed
        self._samples_seen += (next_epoch - epoch) * self.num_samples + next_position - position
        self._delivery.ledger.reach(self._samples_seen)

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last commit: plain types, the same on every rank."""
        return {
            "version": STATE_VERSION,
            "exact": False,
            "samples_seen": self._samples_seen,
            "num_samples": self.num_samples,
            "declared_samples": self._declared_samples,
            "seed": self._seed,
            **self._delivery.cursor.to_state(),
            **self._delivery.ledger.to_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore epoch, position, seed and faults; the order is a new one.

        Args:
            state: State from ``state_dict``.

        Raises:
            CheckpointError: If the state is of another format, or that of a ``PairStream``.
            ConfigError: If a step is larger than an epoch, whose length is fixed at the first
                launch.
        """
        check_sequential_state(state)
        partition = replace(self._partition, num_samples=int(state["num_samples"]))
        check_sizes(partition)
        self._partition = partition
        self._seed = _stored("seed", self._seed, state["seed"])
        self._declared_samples = _stored(
            "num_samples", self._declared_samples, state["declared_samples"]
        )
        self._maker = replace(self._maker, seed=self._seed)
        self._samples_seen = int(state["samples_seen"])
        self._delivery.ledger.load_state(state)
        self._delivery.ledger.reach(self._samples_seen)
        self._delivery.cursor.load_state(state)
        self._delivery.restart()

    def close(self) -> None:
        """End the worker processes; the next iteration starts others, after the last commit."""
        self._delivery.restart()

    def set_image_sizes(self, stages: Sequence[ImageSizeStage]) -> None:
        """Make the images of some steps smaller; see ``PairSource.set_image_sizes``."""
        self._partition = replace(self._partition, image_sizes=tuple(stages))

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of an epoch; a position within that epoch stays."""
        if epoch != self._partition.start(*self._delivery.cursor.next)[0]:
            self._delivery.cursor.jump(epoch, 0)

    def read_captions(self, tokenizer: Encoder, num_samples: int = 256) -> CaptionFacts:
        """Read the captions of the first samples of local shards; none of others."""
        samples = enumerate(self._first_samples(num_samples))
        return caption_facts(samples, self._maker, tokenizer)

    def _first_samples(self, count: int) -> list[RawSample]:
        """Read samples of local shards; none if a pipeline may change them."""
        is_own = isinstance(self._pipeline, OwnPipeline)
        return [] if is_own else list(islice(self._shards.local_samples(), count))

    def sync_faults(self) -> None:
        """Share the bad samples of each rank with all ranks; call it on every rank.

        Raises:
            FaultBudgetExceeded: If all ranks together found more than allowed, on every rank.
            ConfigError: If the ranks of the source are not those of the process group.
        """
        self._delivery.sync_faults()

    def counters(self) -> dict[str, int]:
        """Count bad, padded, dropped and seen samples, for logs."""
        return {**self._delivery.counters(), "samples_seen": self._samples_seen}

    def _start_workers(self) -> BatchLoader:
        self._num_starts += 1
        # The same on all ranks, which divide one order of the shards.
        seed = draw_seed(self._seed, self._samples_seen, self._num_starts)
        builder = SequentialBuilder(
            self._pipeline, self._maker, self._world, seed, self._num_threads
        )
        return BatchLoader(builder, self._num_workers, self._maker.pad_ids, builds_ahead=True)


def _stored(name: str, now: int, stored: int) -> int:
    """Return the value of a checkpoint."""
    if stored != now:
        _LOG.warning("%s: using %s from the checkpoint, ignoring %s", name, stored, now)
    return int(stored)


def _partition_of(
    num_samples: int, batch_size: int, rank: int, world_size: int, order: OrderOptions
) -> EpochPartition:
    stages = tuple(order.batch_size_stages)
    check_stages(stages, batch_size)
    partition = EpochPartition(
        num_samples, batch_size, rank, world_size, "drop", stages, carries=True
    )
    check_sizes(partition)
    complete = num_samples // partition.step_samples * partition.step_samples
    return replace(partition, num_samples=complete)
