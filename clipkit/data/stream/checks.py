"""What can be known to fail before training starts."""

from __future__ import annotations

import contextlib
from typing import Final, get_args

import numpy as np

from clipkit.data.order.partition import Slicing, Tail
from clipkit.data.samples.content import CONTENT_ERRORS
from clipkit.data.samples.maker import Encoder, SampleMaker
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.reader import ShardReader
from clipkit.data.stream.options import OrderOptions
from clipkit.errors import ConfigError, DataError, SampleError

_TRIED_SAMPLES: Final = 8
_TRIED_SHARDS: Final = 16


def check_options(seed: int, num_workers: int, order: OrderOptions, num_threads: int) -> None:
    """Whether each option of a stream makes sense alone.

    Raises:
        ConfigError: If one does not.
    """
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


def check_sizes(slicing: Slicing) -> None:
    """Whether an epoch holds at least one step.

    Raises:
        ConfigError: If the batch is empty, or larger than the data.
    """
    batch_size, world_size = slicing.batch_size, slicing.world_size
    if batch_size < 1:
        raise ConfigError(f"batch_size: expected at least 1, got {batch_size}")
    if slicing.tail == "even" and world_size > slicing.num_samples:
        raise ConfigError(
            f"data: expected a sample at least for each of the {world_size} ranks, got "
            f"{slicing.num_samples}; use fewer ranks or more data (data.val, for a validation)"
        )
    if slicing.tail == "even" and slicing.stages:
        raise ConfigError(
            "batch_size_stages: expected none with tail='even', whose steps are equal"
        )
    if slicing.tail != "drop":
        return
    if batch_size > slicing.num_samples:
        raise ConfigError(
            f"batch_size: expected at most the {slicing.num_samples} samples of the data, got "
            f"{batch_size}; use a smaller batch or more data"
        )
    if slicing.step_samples > slicing.num_samples:
        raise ConfigError(
            f"batch_size: {world_size} ranks of {batch_size} samples need {slicing.step_samples} "
            f"a step, an epoch has {slicing.num_samples}; use a smaller batch, fewer ranks or more "
            f"data"
        )


def caption_lengths(
    index: ShardIndex, reader: ShardReader, maker: SampleMaker, tokenizer: Encoder, num_samples: int
) -> list[int]:
    """Tokens of some captions, spread evenly over the first local shards.

    Args:
        index: The data.
        reader: Of the data.
        maker: Says which text of a sample is its caption.
        tokenizer: Encodes; one with a long context tells what a short one cuts.
        num_samples: How many to look at, at most.

    Returns:
        Their lengths; nothing for remote data, whose shards would have to be transferred.
    """
    if not reader.is_local:
        return []
    reach = min(index.num_samples, sum(shard.num_samples for shard in index.shards[:_TRIED_SHARDS]))
    step = max(1, reach // num_samples)
    lengths = []
    for sample_id in range(0, reach, step)[:num_samples]:
        rng = np.random.default_rng(sample_id)
        with contextlib.suppress(SampleError, *CONTENT_ERRORS):
            text = maker.caption(reader.read(sample_id).members, rng)
            lengths.append(len(tokenizer.encode(text)))
    return lengths


def check_first_sample(index: ShardIndex, reader: ShardReader, maker: SampleMaker) -> None:
    """Whether samples have what training needs, tried on the first few.

    Remote data is not touched: its first shard would have to be transferred.

    Raises:
        DataError: If none of the tried samples can be used.
    """
    if not index.shards[0].address.is_local:
        return
    tried = min(_TRIED_SAMPLES, index.num_samples)
    for sample_id in range(tried):
        raw = reader.read(sample_id)
        try:
            maker.make(raw.key, raw.members, sample_id, [0])
        except SampleError as error:
            last = f"{raw.shard}: {raw.key}: {error.reason}"
        else:
            return
    raise DataError(f"none of the first {tried} samples can be used; the last one: {last}")
