"""Ranks that see different data are refused before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipkit.errors import ConfigError
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks


def _setup(rank: int, world_size: int, folders: list[str], val: list[str], seeds: list[int]) -> str:
    from clipkit.data import EvalTransform, OpenClipTokenizer
    from clipkit.training import PairDataModule
    from clipkit.training.datamodule.options import PairOptions, ValidationOptions

    data = PairDataModule(
        train=f"{folders[rank]}/train/*.tar",
        val=f"{val[rank]}/val/*.tar",
        batch_size=2,
        seed=seeds[rank],
        tokenizer=OpenClipTokenizer(context_length=16),
        samples=PairOptions(transform=EvalTransform(16)),
        validation=ValidationOptions(transform=EvalTransform(16)),
    )
    try:
        data.setup("fit")
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("case", ["equal", "another shard", "another validation", "another seed"])
def test_all_ranks_name_what_differs(tmp_path: Path, shards: Path, case: str) -> None:
    other = tiny.shards(tmp_path, counts=(9, 12), val=6)
    same, mixed = [str(shards)] * 2, [str(shards), str(other)]
    first, second = run_ranks(
        _setup,
        2,
        mixed if case == "another shard" else same,
        mixed if case == "another validation" else same,
        [0, 1] if case == "another seed" else [0, 0],
    )
    assert first == second
    expected = {
        "equal": "",
        "another shard": "data.train: the ranks read different data: samples: 23 on rank 0, 21 on",
        "another validation": "data.val: the ranks read different data: samples: 8 on rank 0, 6 on",
        "another seed": "data.train: the ranks read different data: seed: 0 on rank 0, 1 on rank 1",
    }
    assert first.startswith(expected[case])
    assert bool(first) == (case != "equal")
