"""The stream: exact, resumable, equal over topologies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clipkit.data import PairStream, ShardIndex
from clipkit.types import Batch
from tests.data.fakes import ByteTokenizer, NoisyTransform, first_text
from tests.factories import write_shards

COUNTS = [7, 13, 5, 20, 16]
TOTAL = sum(COUNTS)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, COUNTS)
    return ShardIndex.from_urls(folder)


def make(index: ShardIndex, batch_size: int = 4, **options: Any) -> PairStream:
    defaults: dict[str, Any] = {
        "tokenizer": ByteTokenizer(),
        "image_transform": NoisyTransform(),
        "caption": first_text,
        "seed": 3,
    }
    return PairStream(index, batch_size=batch_size, **{**defaults, **options})


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


def test_an_epoch_holds_every_sample_once_but_for_the_tail(index: ShardIndex) -> None:
    stream = make(index)
    epoch = [sample for batch in stream for sample in ids(batch)]
    assert len(epoch) == len(set(epoch)) == TOTAL // 4 * 4
    assert len(stream) == TOTAL // 4


def test_batches_have_the_promised_content(index: ShardIndex) -> None:
    batch = next(iter(make(index)))
    assert batch.images.shape == (4, 3, 8, 8)
    assert batch.images.dtype == torch.uint8
    assert batch.tokens.shape[1] == max(len(ByteTokenizer().encode(c)) for c in batch.captions)
    for key, sample_id, label, caption in zip(
        batch.keys, ids(batch), batch.labels.tolist(), batch.captions, strict=True
    ):
        assert int(key) == sample_id
        assert label == sample_id % 4
        assert caption.endswith(f"number {sample_id}")


def test_the_next_epoch_is_another_permutation(index: ShardIndex) -> None:
    stream = make(index)
    first, second = list(map(ids, stream)), list(map(ids, stream))
    assert len(first) == len(second)
    assert first != second


@pytest.mark.parametrize("steps", [0, 1, 7, TOTAL // 4, TOTAL // 4 + 3])
def test_a_resume_gives_what_would_have_come(index: ShardIndex, steps: int) -> None:
    whole = train(make(index), 2 * (TOTAL // 4))
    stream = make(index)
    before = train(stream, steps)
    resumed = make(index)
    resumed.load_state_dict(stream.state_dict())
    assert before + train(resumed, len(whole) - steps) == whole
