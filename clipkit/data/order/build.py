"""Create the order of a stream at the first launch, and restore it from a state later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipkit.data.order.base import SampleOrder, SequentialOrder, ShuffledOrder
from clipkit.data.order.lanes import LaneLayout, LaneShuffle, choose_layout
from clipkit.data.order.masked import MaskedOrder
from clipkit.data.order.mixture import Mixture, MixtureOrder, stages_of_state
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.masks.sample_mask import MaskSummary
from clipkit.errors import CheckpointError, ConfigError

Data = ShardIndex | Mixture


def index_of(data: Data) -> ShardIndex:
    """Return all shards of a data set or mixture."""
    return data.index if isinstance(data, Mixture) else data


def masks_of(data: Data) -> dict[str, MaskSummary | None]:
    """Return the mask of each source of a mixture by its name, or of a data set by ""."""
    if isinstance(data, Mixture):
        return {source.name: source.index.mask for source in data.sources}
    return {"": data.mask}


def first_order(
    data: Data, shuffle: bool, seed: int, *, batch_size: int, world_size: int, window: int | None
) -> SampleOrder:
    """Create the order at the first launch."""
    order = _first_order(data, shuffle, seed, batch_size, world_size, window)
    return _masked(order, data)


def _first_order(
    data: Data, shuffle: bool, seed: int, batch_size: int, world_size: int, window: int | None
) -> SampleOrder:
    if not shuffle:
        if isinstance(data, Mixture):
            raise ConfigError("shuffle=False: a mixture has no such order; stream its sources")
        return SequentialOrder(data.kept.num_kept)
    quotas = data.stages[0][1] if isinstance(data, Mixture) else (1,)
    layouts = [
        choose_layout(
            index.kept.num_kept,
            max(1, round(batch_size * (quota / sum(quotas)))),
            world_size,
            random_access=all(shard.address.is_local for shard in index.shards),
            window=window,
        )
        # Lanes as wide as the source's share of a batch, so that each rank reads its own lanes.
        for index, quota in zip(_indexes(data), quotas, strict=True)
    ]
    if not isinstance(data, Mixture):
        return ShuffledOrder(_lanes(data, layouts, seed)[0])
    step_samples = batch_size * world_size
    complete = data.epoch_samples // step_samples * step_samples
    stages = [
        ((begin.step or 0) * step_samples if begin.samples is None else begin.samples, quotas)
        for begin, quotas in data.stages
    ]
    return MixtureOrder(data, _lanes(data, layouts, seed), stages, complete or data.epoch_samples)


def restored_order(data: Data, shuffle: bool, seed: int, state: Mapping[str, Any]) -> SampleOrder:
    """Restore the order that a state describes."""
    return _masked(_restored_order(data, shuffle, seed, state), data)


def _restored_order(data: Data, shuffle: bool, seed: int, state: Mapping[str, Any]) -> SampleOrder:
    layouts = [LaneLayout.from_state(layout) for layout in state["layouts"]]
    expected = len(_indexes(data)) if shuffle else 0
    if len(layouts) != expected or ("stages" in state) != isinstance(data, Mixture):
        raise CheckpointError(
            f"stream state: of {len(layouts)} shuffled sources, this stream has {expected} "
            f"(shuffle={shuffle}); use the options of the state"
        )
    if not shuffle:
        return SequentialOrder(index_of(data).kept.num_kept)
    lanes = _lanes(data, layouts, seed)
    if not isinstance(data, Mixture):
        return ShuffledOrder(lanes[0])
    return MixtureOrder(data, lanes, stages_of_state(data, state), int(state["epoch_samples"]))


def _masked(order: SampleOrder, data: Data) -> SampleOrder:
    """Map the numbers of kept samples to ids, if any source has a mask."""
    if not any(masks_of(data).values()):
        return order
    return MaskedOrder(order, index_of(data).kept)


def _indexes(data: Data) -> list[ShardIndex]:
    return [s.index for s in data.sources] if isinstance(data, Mixture) else [data]


def _lanes(data: Data, layouts: list[LaneLayout], seed: int) -> list[LaneShuffle]:
    return [
        # Equal shards of two sources must not have the same order.
        LaneShuffle(index.counts if index.mask is None else index.kept_counts, layout, seed, source)
        for source, (index, layout) in enumerate(zip(_indexes(data), layouts, strict=True))
    ]
