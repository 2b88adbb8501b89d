"""Bad samples of all ranks in the state of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipkit.data import ShardIndex
from tests.helpers.bad_samples import BAD, write_bad_shards
from tests.helpers.fakes import ByteTokenizer, NoisyTransform, first_text, flat_stream
from tests.helpers.ranks import run_ranks
from tests.helpers.streams import train


def _sync(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    stream = flat_stream(
        ShardIndex.from_urls(folder),
        tokenizer=ByteTokenizer(),
        image_transform=NoisyTransform(),
        caption=first_text,
        batch_size=4,
        seed=3,
        max_bad_fraction=0.2,
    )
    train(stream, 8)
    assert stream.state_dict()["bad_samples"] == []
    stream.sync_faults()
    return {"state": stream.state_dict(), "counters": stream.counters()}


def test_states_are_equal_on_every_rank_with_bad_data(tmp_path: Path) -> None:
    ShardIndex.from_urls(write_bad_shards(tmp_path))
    first, second = run_ranks(_sync, 2, str(tmp_path))
    assert first == second
    assert {int(fault[2]) for fault in first["state"]["bad_samples"]} == BAD
    assert first["state"]["padded"] == len(BAD)
    assert (first["state"]["epoch"], first["state"]["position"]) == (1, 0)
