"""Shards with a few broken pairs."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.factories import pair, write_shard

BAD = {5, 17, 18, 33, 34, 35, 59}
TOTAL = 64


def broken_pair(number: int) -> dict[str, bytes]:
    """A pair with one of the usual faults."""
    members = pair(number)
    kind = number % 4
    if kind == 0:
        del members["jpg"]
    elif kind == 1:
        members["jpg"] = members["jpg"][:100]
    elif kind == 2:
        del members["txt"]
    else:
        members["cls"] = b"cat"
    return members


def write_bad_shards(folder: Path) -> list[Path]:
    return [
        write_shard(
            folder / f"{shard:05d}.tar",
            [
                (f"{i:06d}", broken_pair(i) if i in BAD else pair(i))
                for i in range(16 * shard, 16 * shard + 16)
            ],
        )
        for shard in range(4)
    ]
