"""What a configuration names as its data."""

from __future__ import annotations

import pytest

from clipkit.data import ShardCache
from clipkit.errors import DataError
from clipkit.training import PairDataModule, StorageOptions
from tests.helpers import tiny


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_pipe_must_be_asked_for(tmp_path, part):
    folder = tiny.shards(tmp_path / "shards")
    paths = {
        "train": f"{folder}/train/{{00000..00001}}.tar",
        "val": f"{folder}/val/00000.tar",
    }
    paths[part] = f"pipe:cat {paths[part]}"
    options = {**paths, "batch_size": 4}
    cache = ShardCache(tmp_path / "cache")
    with pytest.raises(DataError, match=r"data\.storage\.allow_pipe: true"):
        fit(tmp_path, {**options, "storage": StorageOptions(cache)})
    allowed = {**options, "storage": StorageOptions(cache, allow_pipe=True)}
    assert fit(tmp_path, allowed).global_step == 2


def fit(run, options):
    trainer = tiny.trainer(run, max_steps=2)
    trainer.fit(tiny.module(), datamodule=PairDataModule(**options))
    return trainer
