"""The stream of batches: exact, resumable, the same on any number of ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, final

from clipkit.data.order.base import SampleOrder
from clipkit.data.order.build import Data, first_order, index_of, masks_of, restored_order
from clipkit.data.order.image_sizes import ImageSizeStage
from clipkit.data.order.length_buckets import first_windows, restored_windows
from clipkit.data.order.partition import EpochPartition, check_stages
from clipkit.data.samples.faults import FaultOptions
from clipkit.data.samples.maker import Transform
from clipkit.data.shards.masks.sample_mask import MaskSummary
from clipkit.data.shards.reader import ShardReader
from clipkit.data.stream.builder import BatchBuilder
from clipkit.data.stream.checks import (
    CaptionFacts,
    check_first_sample,
    check_options,
    check_sizes,
    check_threads,
    read_captions,
)
from clipkit.data.stream.defaults import (
    default_transform,
    make_delivery,
    make_maker,
    world_of,
)
from clipkit.data.stream.options import OrderOptions, SampleOptions
from clipkit.data.stream.state import check_state, header
from clipkit.data.stream.workers import BatchLoader
from clipkit.data.text.tokenizer import Encoder
from clipkit.distributed.world import World
from clipkit.renamed_arguments import renamed_arguments
from clipkit.types import Batch

_LOG = logging.getLogger(__name__)
_ORDER = ("shuffle", "tail", "shuffle_window", "batch_size_stages")
_SAMPLES = ("caption", "label_field", "fields", "num_threads")
_FAULTS = ("max_bad_fraction", "max_bad_shards")
_RENAMED: Final = {
    **{name: f"order=OrderOptions({name}=...)" for name in _ORDER},
    **{name: f"samples=SampleOptions({name}=...)" for name in _SAMPLES},
    **{name: f"faults=FaultOptions({name}=...)" for name in _FAULTS},
    "length_window_batches": "order=OrderOptions(length_bucket_batches=...)",
    "fault_log": "faults=FaultOptions(log=...)",
    "cache": "ShardIndex.from_urls(cache=...)",
}


@final
class PairStream:
    """Batches of image-text pairs, every sample once per epoch, in a reproducible order.

    The order depends on the seed, the epoch and the data. A stream can be stopped and resumed at
    any batch, with a different number of ranks or workers or a different batch size, and yields the
    same sequence of samples. Batches that were yielded but not committed are yielded again.

    A new iteration starts after the last commit, or, if the last iteration reached the end of its
    epoch, with the next epoch.

    Args:
        index: The data: a ``ShardIndex``, of which a mask may keep some samples only, or a
            ``Mixture`` of several.
        tokenizer: Encodes the captions: a ``Tokenizer``, a tokenizer object of open_clip or
            transformers, or any object with ``pad_id`` and ``encode(text) -> list[int]``.
        batch_size: Number of samples in a batch of one rank.
        seed: Seed for the sample order, the augmentation and the selection of captions.
        image_size: Width and height of the images in pixels, if ``image_transform`` is None:
            random crops when shuffling, else the complete image, resized and cropped to its center.
        image_transform: Function from an image file and a random generator to uint8 pixels
            ``[3 H W]``.
        num_workers: Number of processes that build batches; 0 builds them in the calling process.
            The batches are the same.
        rank: Rank of this process among those that share an epoch; None reads the environment.
        world_size: Number of processes that share an epoch; None reads the environment.
        order: Shuffling, batches at the end of an epoch, and batch sizes at the start of a run.
        samples: Captions, labels and further fields of a sample.
        faults: How many bad samples and shards are allowed, and where they are logged.

    Raises:
        ConfigError: If the sizes cannot work (a step needs more samples than there are).
        DataError: If the first samples have no image or no caption.

    Examples:
        >>> index = ShardIndex.from_urls("data/train")
        >>> stream = PairStream(index, tokenizer=OpenClipTokenizer(), batch_size=4, image_size=64)
        >>> for batch in stream:
        ...     stream.commit(batch)  # after a step on the batch
        >>> stream.state_dict()["epoch"]
        1
    """

    @renamed_arguments(_RENAMED)
    def __init__(
        self,
        index: Data,
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
        self._data, self._index = index, index_of(index)
        world = world_of(rank, world_size)
        self._shuffle, self._seed = order.shuffle, seed
        self._num_workers, self._num_threads = num_workers, samples.num_threads
        self._reader = ShardReader(self._index)
        transform = image_transform or default_transform(image_size, order.shuffle)
        self._maker = make_maker(tokenizer, transform, samples, seed)
        self._order = first_order(
            index, order.shuffle, seed, batch_size=batch_size, world_size=world.size,
            window=order.shuffle_window,
        )  # fmt: skip
        self._partition = _partition_of(self._order, order, batch_size, world)
        check_sizes(self._partition, len(self._index) - self._index.kept.num_kept)
        self._windows = first_windows(
            order.length_bucket_batches, order.shuffle, self._partition.step_samples
        )
        check_first_sample(self._index, self._reader, self._maker)
        self._delivery = make_delivery(world, faults, self._index.kept.num_kept)

    def __len__(self) -> int:
        """Return the number of batches of this rank in the epoch of the next batch."""
        start = self._partition.start(*self._delivery.cursor.next)
        return self._partition.progress(*start[:2])[1]

    @property
    def is_exact(self) -> bool:
        """Return True: every sample comes once per epoch, and a resume starts at the next one."""
        return True

    @property
    def partition(self) -> EpochPartition:
        """Partition of epochs into steps."""
        return self._partition

    @property
    def epoch(self) -> int:
        """Epoch of the next batch to be trained on."""
        return self.place[0]

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and position after the last committed batch."""
        return self._delivery.cursor.committed

    @property
    def num_samples(self) -> int:
        """Number of samples in an epoch, over all ranks, including the tail."""
        return self._order.num_samples

    @property
    def num_shards(self) -> int:
        """Shards of the data."""
        return len(self._index.shards)

    @property
    def masks(self) -> Sequence[MaskSummary]:
        """Masks of the data, or of the sources of a mixture."""
        return [mask for mask in masks_of(self._data).values() if mask is not None]

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches from here to the epoch's end; workers start with the first one.

        Raises:
            FaultBudgetExceeded: If more samples or shards are bad than allowed.
            DataError: If a batch that all ranks need has no usable sample.
            OSError: If this machine is out of files, memory or disk.
        """
        yield from self._delivery.run(self._partition, self._start_workers)  # sizes may be set yet

    def commit(self, batch: Batch) -> None:
        """Record that a batch has been trained on: a resume starts after it.

        Args:
            batch: Batch of this stream, or its copy on a device.

        Raises:
            ConfigError: If the batch has no cursor, so is not a batch of a stream.
        """
        self._delivery.commit(batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last commit: plain types, the same on every rank.

        It contains bad samples of other ranks as of the last ``sync_faults``; the order does not
        depend on them.
        """
        return {
            **header(self._index, masks_of(self._data)),
            "seed": self._seed,
            **self._delivery.cursor.to_state(),
            **self._order.to_state(),
            "length_windows": self._windows and self._windows.to_state(),
            **self._delivery.ledger.to_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, with any number of ranks and workers and any batch size.

        Args:
            state: State from ``state_dict``.

        Raises:
            CheckpointError: If the state is of another format, of other data, of another mask, or
                of another kind.
            ConfigError: If a step is larger than the epochs of a mixture, whose length is fixed at
                the first launch.
        """
        check_state(state, self._index, masks_of(self._data))
        seed = int(state["seed"])
        order = restored_order(self._data, self._shuffle, seed, state)
        partition = replace(self._partition, num_samples=order.num_samples)
        check_sizes(partition)
        self._order, self._partition = order, partition
        self._windows = restored_windows(state.get("length_windows"), self._windows)
        if seed != self._seed:
            _LOG.warning("seed: using %s from the checkpoint, ignoring %s", seed, self._seed)
            self._seed = seed
            self._maker = replace(self._maker, seed=seed)
        self._delivery.ledger.load_state(state)
        for number, shard in enumerate(self._index.shards):
            if shard.url in self._delivery.ledger.bad_shards:
                self._reader.mark_bad(number, self._delivery.ledger.bad_shards[shard.url])
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
        """Read some captions; see ``clipkit.data.stream.checks.read_captions``."""
        return read_captions(self._index, self._reader, self._maker, tokenizer, num_samples)

    def sync_faults(self) -> None:
        """Share the bad samples of each rank with all ranks; call it on every rank.

        Raises:
            FaultBudgetExceeded: If all ranks together found more than allowed, on every rank.
            ConfigError: If the ranks of the stream are not those of the process group.
        """
        self._delivery.sync_faults()

    def counters(self) -> dict[str, int]:
        """Count bad, padded (repeated) and dropped samples, and samples of mixed sources, for logs.

        Dropped samples and sources are counted over all ranks, up to the last commit.
        """
        given = self._order.source_counts(*self._delivery.cursor.committed)
        sources = {f"samples/{name}": count for name, count in given.items()}
        return {**self._delivery.counters(), **sources}

    def _start_workers(self) -> BatchLoader:
        order, windows = self._order, self._windows
        builder = BatchBuilder(self._reader, self._maker, order, self._num_threads, windows)
        # An epoch of validation follows the previous one only after a long time.
        return BatchLoader(builder, self._num_workers, self._maker.pad_ids, self._shuffle)


def _partition_of(
    order: SampleOrder, options: OrderOptions, batch_size: int, world: World
) -> EpochPartition:
    """Return which positions of an epoch each step and this rank take."""
    tail = options.tail or ("drop" if options.shuffle else "keep")
    stages = tuple(options.batch_size_stages)
    check_stages(stages, batch_size)
    carries = order.is_endless and tail == "drop"
    return EpochPartition(
        order.num_samples, batch_size, world.rank, world.size, tail, stages, carries
    )
