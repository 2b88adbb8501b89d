"""A run that reads with webdataset, from its options to its checkpoint."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from clipkit.cli.main import main
from clipkit.data import OrderOptions, ShardCache
from clipkit.errors import CheckpointError, ConfigError, DataError
from clipkit.export.run_facts import read_run
from clipkit.training import (
    MixtureOptions,
    MixtureSource,
    PairDataModule,
    PairOptions,
    StorageOptions,
    WebDatasetOptions,
)
from clipkit.training.callbacks import SaveCheckpoint
from clipkit.training.preflight.plan import make_plan
from clipkit.training.preflight.screen import lines
from tests.helpers import tiny
from tests.helpers.factories import image_bytes

WEBDATASET = StorageOptions(webdataset=WebDatasetOptions(num_samples=18))


def fit(run, data, *, max_steps=6, checkpoint=None, module=None):
    trainer = tiny.trainer(run, SaveCheckpoint(), max_steps=max_steps)
    trainer.fit(module or tiny.module(), datamodule=data, ckpt_path=checkpoint)
    return trainer


def stored(run: Path) -> dict:
    return torch.load(run / "last.ckpt", weights_only=True)["PairDataModule"]["train"]


def test_a_run_is_resumed_and_says_what_it_saw(shards, tmp_path):
    fit(tmp_path, tiny.data(shards, storage=WEBDATASET))
    state = stored(tmp_path)
    assert (state["exact"], state["samples_seen"], state["num_samples"]) == (False, 24, 16)
    assert read_run(tmp_path / "last.ckpt").samples_seen == 24
    # twice the batch: the same epochs, and an end after the same samples
    data = tiny.data(shards, 8, storage=WEBDATASET)
    trainer = fit(tmp_path, data, max_steps=10, checkpoint=tmp_path / "last.ckpt")
    assert stored(tmp_path)["samples_seen"] == 40
    assert trainer.global_step == 8


def test_checkpoints_of_the_other_order_are_refused(shards, tmp_path):
    fit(tmp_path / "a", tiny.data(shards, storage=WEBDATASET))
    with pytest.raises(CheckpointError, match=r"of a WebDatasetSource.*data\.storage\.webdataset"):
        fit(tmp_path / "b", tiny.data(shards), checkpoint=tmp_path / "a" / "last.ckpt")
    fit(tmp_path / "c", tiny.data(shards))
    data = tiny.data(shards, storage=WEBDATASET)
    with pytest.raises(CheckpointError, match=r"of a PairStream.*without data\.storage"):
        fit(tmp_path / "d", data, checkpoint=tmp_path / "c" / "last.ckpt")


def test_the_screen_says_that_the_order_is_not_exact(shards, tmp_path):
    data = tiny.data(shards, storage=WEBDATASET)
    trainer = fit(tmp_path, data)
    plan = make_plan(trainer, trainer.lightning_module, data, 64)
    text = dict(lines(plan))
    assert text["data"] == "16 samples per epoch, read by webdataset from 2 shards"
    assert [note for note in plan.notes if note.startswith("the order is not exact")]
    assert plan.captions.num_read == 23
    data.num_workers = 4
    notes = make_plan(trainer, trainer.lightning_module, data, 64).notes
    assert [note for note in notes if note.startswith("2 shards for 4 workers of all ranks")]


def test_a_pipe_must_be_asked_for(shards, tmp_path):
    train = f"pipe:cat {shards}/train/00001.tar"
    with pytest.raises(DataError, match=r"data\.storage\.allow_pipe: true"):
        fit(tmp_path, PairDataModule(train, storage=WEBDATASET, batch_size=4))
    cache = ShardCache(tmp_path / "cache")
    storage = replace(WEBDATASET, cache=cache, allow_pipe=True)
    fit(tmp_path, PairDataModule(train, storage=storage, batch_size=4))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"storage": StorageOptions(webdataset=WebDatasetOptions(resampled=True))},
            r"data\.storage\.webdataset\.num_samples: expected the number of samples",
        ),
        ({"samples": PairOptions(per_class=2)}, "samples.per_class and .* need an exact order"),
        (
            {"mixture": MixtureOptions([MixtureSource("a", "x.tar", 1.0)])},
            "data.mixture, .* need an exact order",
        ),
        ({"order": OrderOptions(length_bucket_batches=2)}, "needs an exact order"),
        ({"train": None}, "data.train: expected shards to train on"),
    ],
)
def test_what_needs_an_exact_order_is_refused(shards, tmp_path, options, message):
    train = str(shards / "train")
    options = {"train": train, "batch_size": 4, "storage": WEBDATASET, **options}
    with pytest.raises(ConfigError, match=message):
        fit(tmp_path, PairDataModule(**options))


def test_a_table_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(image_bytes())
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,a dog\n")
    data = PairDataModule(train=str(tmp_path / "t.csv"), batch_size=1, storage=WEBDATASET)
    with pytest.raises(ConfigError, match=r"t\.csv: webdataset reads shards, got a table"):
        fit(tmp_path, data)


def test_an_own_pipeline_by_its_import_path(shards, tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text(
        "import webdataset as wds\n\n\n"
        "def my_pipeline(urls, seed, handler):\n"
        "    return wds.DataPipeline(\n"
        "        wds.SimpleShardList(urls, seed=seed), wds.split_by_node, wds.split_by_worker,\n"
        "        wds.tarfile_to_samples(handler=handler), wds.shuffle(100, seed=seed))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = tiny.words(
        shards,
        tmp_path / "run",
        "--data.storage.webdataset.num_samples=16",
        "--data.storage.webdataset.pipeline=my_package.my_pipeline",
        "--trainer.callbacks=clipkit.training.callbacks.KeyLog",
        f"--trainer.callbacks.path={tmp_path}/keys.txt",
    )
    assert main(["fit", *words]) == 0
    keys = [line.split()[2] for line in (tmp_path / "keys.txt").read_text().splitlines()]
    assert len(set(keys)) == 16
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["storage"]["webdataset"] == {
        "num_samples": 16, "resampled": False, "pipeline": "my_package.my_pipeline",
    }  # fmt: skip
    assert json.dumps(config)  # plain types only
    sys.modules.pop("my_package")
