"""Defaults of a stream."""

from __future__ import annotations

from pathlib import Path

from clipkit.data.samples.maker import Caption, Transform
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
