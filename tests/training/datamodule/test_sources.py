"""What a configuration names as its data."""

from __future__ import annotations

import pytest

from clipkit.data import ShardCache, TableColumns
from clipkit.errors import ConfigError, DataError
from clipkit.training import PairDataModule, StorageOptions
from clipkit.training.datamodule.sources import open_index
from tests.helpers import tiny
from tests.helpers.factories import image_bytes, write_shards
from tests.helpers.servers import Misbehaviour, http_server


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


def test_counts_of_a_configuration_spare_the_transfer(tmp_path):
    write_shards(tmp_path / "data", [3, 4])
    files = {f"/{p.name}": p.read_bytes() for p in (tmp_path / "data").glob("*.tar")}
    (tmp_path / "counts.json").write_text('{"00000.tar": 3, "00001.tar": 4}')
    trouble = Misbehaviour()
    with http_server(files, trouble) as url:
        cache = ShardCache(tmp_path / "cache", retries=0)
        options = StorageOptions(cache, counts=str(tmp_path / "counts.json"))
        index = open_index(f"{url}/{{00000..00001}}.tar", (), options)
    assert index.counts.tolist() == [3, 4]
    assert not trouble.gets


def test_counts_do_not_apply_to_a_table(tmp_path):
    (tmp_path / "a.jpg").write_bytes(image_bytes())
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,a\n")
    (tmp_path / "counts.json").write_text('{"00000.tar": 3}')
    options = StorageOptions(counts=str(tmp_path / "counts.json"))
    assert open_index(str(tmp_path / "t.csv"), (), options).num_samples == 1


def test_columns_of_a_configuration_apply_to_a_table(tmp_path):
    (tmp_path / "a.jpg").write_bytes(image_bytes())
    (tmp_path / "t.csv").write_text("photo,prompt\na.jpg,a\n")
    options = StorageOptions(columns=TableColumns(["photo"], ["prompt"]))
    assert open_index(str(tmp_path / "t.csv"), (), options).num_samples == 1


@pytest.mark.parametrize("part", ["train", "val"])
def test_tables_in_memory_must_be_packed_first(part):
    class Dataset:
        """Stands for ``datasets.Dataset``."""

    for data in (Dataset(), ["shards", Dataset()]):
        with pytest.raises(ConfigError, match=rf"data\.{part}: expected a path.*Dataset;.*pack\("):
            PairDataModule(**{part: data})
