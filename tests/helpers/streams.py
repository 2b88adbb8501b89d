"""Training loops over streams that keep what they saw."""

from __future__ import annotations

from typing import Any

from clipkit.data import PairStream, ShardIndex
from clipkit.types import Batch
from tests.helpers.fakes import ByteTokenizer, NoisyTransform, first_text, flat_stream


def make(index: ShardIndex, batch_size: int = 4, **options: Any) -> PairStream:
    defaults: dict[str, Any] = {
        "tokenizer": ByteTokenizer(),
        "image_transform": NoisyTransform(),
        "caption": first_text,
        "seed": 3,
    }
    return flat_stream(index, batch_size=batch_size, **{**defaults, **options})


def ids(batch: Batch) -> list[int]:
    assert batch.sample_ids is not None
    return batch.sample_ids.tolist()


def train(stream: PairStream, steps: int) -> list[list[int]]:
    """Go through ``steps`` batches over epochs, committing each."""
    seen: list[list[int]] = []
    while len(seen) < steps:
        for batch in stream:
            stream.commit(batch)
            seen.append(ids(batch))
            if len(seen) == steps:
                break
    return seen


def train_ranks(
    index: ShardIndex,
    world_size: int,
    batch_size: int,
    steps: int,
    state: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[list[list[int]], dict[str, Any]]:
    """The global batches of all ranks, one after the other here, and the state they agree on."""
    ranks, states = [], []
    for rank in range(world_size):
        stream = make(index, batch_size, rank=rank, world_size=world_size, **options)
        if state is not None:
            stream.load_state_dict(state)
        ranks.append(train(stream, steps))
        states.append(stream.state_dict())
    assert all(other == states[0] for other in states)
    joined = [[i for batch in step for i in batch] for step in zip(*ranks, strict=True)]
    return joined, states[0]
