"""Parts of a stream, and what they are by default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipkit.data.samples.faults import FaultOptions, FaultTracker
from clipkit.data.samples.maker import Caption, SampleMaker, Transform
from clipkit.data.stream.delivery import BatchDelivery
from clipkit.data.stream.options import SampleOptions
from clipkit.data.text.tokenizer import Encoder
from clipkit.data.text.tokenizer_objects import as_encoder
from clipkit.distributed.world import World, current_world
from clipkit.errors import ConfigError


def world_of(rank: int | None, world_size: int | None) -> World:
    """Return the specified rank and number of ranks, or those of the environment."""
    if rank is None and world_size is None:
        return current_world()
    if rank is None or world_size is None:
        raise ConfigError(f"rank, world_size: expected both or none, got {rank} and {world_size}")
    return World(rank, world_size)


def default_transform(image_size: int, shuffle: bool) -> Transform:
    """Return random crops for training, the centre of the image for evaluation."""
    from clipkit.data.images.transforms import EvalTransform, TrainTransform

    transform: Transform = TrainTransform(image_size) if shuffle else EvalTransform(image_size)
    return transform


def default_caption() -> Caption:
    """Return the picker of a sample's ``.txt``."""
    from clipkit.data.text.captions import TextField

    caption: Caption = TextField("txt")
    return caption


def log_of_rank(path: str | Path | None, world: World) -> Path | None:
    """Return a file for this rank only: appends of several machines to one file would mix."""
    if path is None or world.size == 1:
        return None if path is None else Path(path)
    path = Path(path)
    return path.with_suffix(f".rank{world.rank}{path.suffix}")


def make_maker(
    tokenizer: Encoder | Callable[..., Any], transform: Transform, samples: SampleOptions, seed: int
) -> SampleMaker:
    """Return what makes samples from the members of shards."""
    return SampleMaker(
        as_encoder(tokenizer),
        transform,
        samples.caption or default_caption(),
        samples.label_field,
        seed,
        fields=tuple(samples.fields),
    )


def make_delivery(world: World, faults: FaultOptions, num_samples: int) -> BatchDelivery:
    """Return what hands out batches, and counts what is bad of some samples."""
    log = log_of_rank(faults.log, world)
    return BatchDelivery(world, FaultTracker(faults, num_samples, world.size == 1, log))
