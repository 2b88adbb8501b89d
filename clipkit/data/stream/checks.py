"""Check before training starts what would fail later."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np

from clipkit.data.images.adapted_transforms import is_thread_safe
from clipkit.data.order.partition import EpochPartition, Tail
from clipkit.data.samples.content import CONTENT_ERRORS, IMAGES_AND_SOUNDS
from clipkit.data.samples.maker import SampleMaker
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.reader import RawSample, ShardReader
from clipkit.data.stream.options import OrderOptions
from clipkit.data.text.captions import OptionalCaption, TextField
from clipkit.data.text.tokenizer import Encoder
from clipkit.errors import ConfigError, DataError, SampleError

TRIED_SAMPLES: Final = 8
"""Number of samples of which one must be usable."""
_TRIED_SHARDS: Final = 16


def check_options(seed: int, num_workers: int, order: OrderOptions, num_threads: int) -> None:
    """Check each option of a stream."""
    if order.tail not in (None, *get_args(Tail)):
        raise ConfigError(f"tail: expected {' or '.join(get_args(Tail))}, got {order.tail!r}")
    if order.shuffle_window is not None and order.shuffle_window < 1:
        raise ConfigError(f"shuffle_window: expected at least 1, got {order.shuffle_window}")
    for name, value, least in [
        ("seed", seed, 0),
        ("num_workers", num_workers, 0),
        ("num_threads", num_threads, 1),
    ]:
        if value < least:
            raise ConfigError(f"{name}: expected at least {least}, got {value}")


def check_threads(num_threads: int, transform: object) -> None:
    """Refuse several threads for transforms whose random numbers come from a shared generator."""
    if num_threads > 1 and not is_thread_safe(transform):
        raise ConfigError(
            f"num_threads: expected 1 with augmentations of torchvision or albumentations, whose "
            f"random generators are those of the process, got {num_threads}; use num_workers"
        )


def check_sizes(partition: EpochPartition, num_removed: int = 0) -> None:
    """Check that an epoch has at least one step.

    Args:
        partition: Partition of epochs into steps.
        num_removed: Number of samples that masks remove, for messages.
    """
    batch_size, world_size = partition.batch_size, partition.world_size
    masked = f" (a mask removes {num_removed} more)" if num_removed else ""
    if batch_size < 1:
        raise ConfigError(f"batch_size: expected at least 1, got {batch_size}")
    if partition.tail == "even" and world_size > partition.num_samples:
        raise ConfigError(
            f"data: expected a sample at least for each of the {world_size} ranks, got "
            f"{partition.num_samples}{masked}; use fewer ranks or more data (data.val, for a "
            f"validation)"
        )
    if partition.tail == "even" and partition.stages:
        raise ConfigError(
            "batch_size_stages: expected none with tail='even', whose steps are equal"
        )
    if partition.tail != "drop":
        return
    if batch_size > partition.num_samples:
        raise ConfigError(
            f"batch_size: expected at most the {partition.num_samples} samples of the data{masked}"
            f", got {batch_size}; use a smaller batch or more data"
        )
    if partition.step_samples > partition.num_samples:
        raise ConfigError(
            f"batch_size: {world_size} ranks of {batch_size} samples need {partition.step_samples} "
            f"per step, an epoch has {partition.num_samples}{masked}; use a smaller batch, fewer "
            f"ranks or more data"
        )


def check_sequential_order(order: OrderOptions, has_pipeline: bool) -> None:
    """Refuse what only an exact order can do."""
    if not order.shuffle or order.tail not in (None, "drop"):
        raise ConfigError(
            f"order: webdataset reads for training, with shuffle=True and tail='drop'; got "
            f"shuffle={order.shuffle} and tail={order.tail!r}"
        )
    if order.length_bucket_batches is not None:
        raise ConfigError(
            "order.length_bucket_batches: needs an exact order, which webdataset does not have; "
            "leave it out, or read the shards with PairStream"
        )
    if order.shuffle_window is not None and has_pipeline:
        raise ConfigError(
            "order.shuffle_window: has no effect on a pipeline of your own; leave it out, and use "
            "webdataset.shuffle in the pipeline"
        )


@dataclass(frozen=True, slots=True)
class CaptionFacts:
    """Facts about a sample of the captions.

    Args:
        lengths: Number of tokens of each caption that could be read.
        num_joined: Number of texts of several lines that are one caption, because their lines are
            not declared to be captions.
    """

    lengths: list[int]
    num_joined: int = 0


def read_captions(
    index: ShardIndex, reader: ShardReader, maker: SampleMaker, tokenizer: Encoder, num_samples: int
) -> CaptionFacts:
    """Read some captions, evenly distributed over the first local shards."""
    if not reader.is_local:
        return CaptionFacts([])
    end = index.starts[min(_TRIED_SHARDS, len(index.shards))]
    reach = int(index.kept.num_before(np.array([end]))[0]) or index.kept.num_kept
    step = max(1, reach // num_samples)
    ids = index.kept.ids(np.arange(0, reach, step)[:num_samples]).tolist()
    samples = ((number, reader.read(number, leave_out=IMAGES_AND_SOUNDS)) for number in ids)
    return caption_facts(samples, maker, tokenizer)


def caption_facts(
    samples: Iterable[tuple[int, RawSample]], maker: SampleMaker, tokenizer: Encoder
) -> CaptionFacts:
    """Count the tokens of the captions of some samples and their ids."""
    picker = maker.caption.captions if isinstance(maker.caption, OptionalCaption) else maker.caption
    lengths, num_joined = [], 0
    for sample_id, raw in samples:
        rng = np.random.default_rng(sample_id)
        with contextlib.suppress(SampleError, *CONTENT_ERRORS):
            lengths.append(len(tokenizer.encode(maker.caption(raw.members, rng))))
            num_joined += isinstance(picker, TextField) and picker.joins_lines(raw.members)
    return CaptionFacts(lengths, num_joined)


def check_first_sample(index: ShardIndex, reader: ShardReader, maker: SampleMaker) -> None:
    """Check that the first few samples have what training needs.

    Remote data are not checked, because the first shard would have to be transferred.
    """
    ids = index.kept.first_ids(TRIED_SAMPLES)
    if not index.shards[index.locate(ids[0])[0]].address.is_local:
        return
    check_samples(map(reader.read, ids), maker)


def check_samples(samples: Iterable[RawSample], maker: SampleMaker) -> None:
    """Check that one of some samples can be used."""
    tried, last = 0, "none was found"
    for raw in samples:
        try:
            maker.make(raw.key, raw.members, tried, [0])
        except SampleError as error:
            tried, last = tried + 1, f"{raw.shard}: {raw.key}: {error.reason}"
        else:
            return
    raise DataError(f"none of the first {tried} samples can be used; the last one: {last}")
