"""Ranks read no tensor between logged steps, either: exchanges that are read run over gloo."""

from __future__ import annotations

from pathlib import Path

from tests.helpers import tiny
from tests.helpers.host_reads import recorded_fit
from tests.helpers.ranks import run_ranks
from tests.training.test_host_reads import module_of


def fit(rank: int, world_size: int, shards: Path, run: Path) -> dict[str, int]:
    """A time limit, whose clock all ranks share, with prototypes and an average of the weights."""
    options = {"devices": world_size, "num_nodes": 1, "strategy": "ddp", "max_time": "00:01:00:00"}
    return recorded_fit(run, module_of("prototypes"), tiny.data(shards, 2), **options)


def test_two_ranks_read_nothing_between_logged_steps(tmp_path: Path) -> None:
    shards = tiny.shards(tmp_path / "shards", (40,))  # Lightning's timer waits after an epoch
    for places in run_ranks(fit, 2, shards, tmp_path):
        assert places == {}
