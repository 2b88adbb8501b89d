"""Several ranks write in the background what they would have written at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from lightning.pytorch import Callback
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from clipkit.distributed.background import background_group
from clipkit.errors import CheckpointError
from clipkit.models import consolidate_checkpoint
from clipkit.models.files.sharded import (
    META,
    is_sharded,
    read_checkpoint,
    read_sharded,
    split_shards,
)
from clipkit.training import ShardedStrategy
from clipkit.training.callbacks import ExponentialMovingAverage, SaveCheckpoint
from clipkit.training.checkpoints.files import duplicate, remove, remove_partial_files
from clipkit.training.checkpoints.newest import newest_complete
from clipkit.training.checkpoints.places import write_parts
from clipkit.training.checkpoints.writers import WriteInBackground
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks
from tests.helpers.slow_writes import differences, held_writes

STEPS, KEPT = 3, 2


class Release(Callback):
    def __init__(self, event: Any) -> None:
        self.event = event

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == STEPS:
            self.event.set()


def fit(
    shards: Path, run: Path, ranks: int, *callbacks: Callback, ckpt: Any = None, **options: Any
) -> int:
    trainer = tiny.trainer(
        run, ExponentialMovingAverage(), *callbacks, max_steps=STEPS, devices=ranks, num_nodes=1,
        **options,
    )  # fmt: skip
    data = tiny.data(shards, 8 // ranks)
    trainer.fit(tiny.module(labels=True), datamodule=data, ckpt_path=ckpt)
    return int(trainer.global_step)


def strategies() -> dict[str, Any]:
    kinds = {"full": ShardedStrategy(), "sharded": ShardedStrategy(checkpoint="sharded")}
    return {"ddp": "ddp", **kinds}


def both_ways(rank: int, world_size: int, shards: Path, root: Path) -> None:
    for name in strategies():
        for background in (False, True):
            saver = SaveCheckpoint(
                every_n_minutes=None, keep_every_n_steps=KEPT, background=background
            )
            # every rank's thread waits until training is over
            with held_writes(20) as event:
                run = root / name / str(background)
                strategy = strategies()[name]
                fit(shards, run, world_size, saver, Release(event), strategy=strategy)


def test_files_are_those_of_writes_at_once(shards, tmp_path):
    run_ranks(both_ways, 2, shards, tmp_path)
    for name in strategies():
        for file in ("last.ckpt", f"step={KEPT}.ckpt"):
            first, second = (tmp_path / name / way / file for way in ("False", "True"))
            assert is_sharded(second) == (name == "sharded")
            assert not differences(read_checkpoint(first), read_checkpoint(second))
        left = [path.name for path in (tmp_path / name / "True").iterdir()]
        assert sorted(left) == ["last.ckpt", f"step={KEPT}.ckpt"]


def to_store(rank: int, world_size: int, shards: Path, run: Path, store: str) -> list[Any]:
    """Two runs of sharded weights to a store: at once, continued in the background."""
    options = {"strategy": ShardedStrategy(checkpoint="sharded")}
    saver = SaveCheckpoint(store, keep_every_n_steps=KEPT)
    fit(shards, run, world_size, saver, **options)
    found = newest_complete(store)
    saver = SaveCheckpoint(store, every_n_steps=1, background=True)
    options["strategy"] = ShardedStrategy(checkpoint="sharded")
    steps = fit(shards, run, world_size, saver, ckpt=f"{store}/step={KEPT}.ckpt", **options)
    return [found, steps]


@pytest.mark.usefixtures("s3_endpoint")
def test_parts_in_a_store(shards, tmp_path):
    """Against a real S3 server on loopback: written by two ranks, read by one."""
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.mkdir("models")
    store = "s3://models/run"
    for found in run_ranks(to_store, 2, shards, tmp_path / "run", store):
        assert found == [f"{store}/last.ckpt", STEPS]
    last, kept = f"{store}/last.ckpt", f"{store}/step={KEPT}.ckpt"

    def listed() -> list[str]:
        system.invalidate_cache()
        return list(system.find(last[len("s3://") :]))

    files = listed()
    assert len(files) == 3  # nothing of the writes before
    assert fit(shards, tmp_path / "one", 1, ckpt=kept) == STEPS
    consolidate_checkpoint(last, tmp_path / "whole.ckpt")
    one, whole = read_checkpoint(tmp_path / "whole.ckpt"), read_sharded(last)
    assert not differences(one, whole)
    # a write that was killed before its meta.pt leaves the previous one
    system.pipe_file(f"{last}/abcd/shard-00001-model-00001-of-00001.safetensors", b"half")
    assert newest_complete(store) == last
    assert not differences(read_sharded(last), whole)
    remove_partial_files(store)
    assert listed() == files
    (part,) = [file for file in files if "shard-00002" in file]
    content = system.cat_file(part)
    for broken in (content[:-1], content[:-9] + b"\xff" * 9):
        system.pipe_file(part, broken)
        assert newest_complete(store) == kept
    duplicate(kept, last)
    assert not differences(read_sharded(last), read_sharded(kept))
    remove(last)
    assert not listed()
    system.rm(f"{kept}/{META}")
    assert not is_sharded(kept)
    with pytest.raises(CheckpointError, match=r"step=2\.ckpt: incomplete, meta\.pt missing"):
        newest_complete(store)


def grid(rank: int, world_size: int, folder: Path) -> None:
    """Pieces of hybrid sharding, of which two ranks have each: two write, any may read.

    Threads write them.
    """
    mesh = init_device_mesh("cpu", (2, 2))
    rows, columns = torch.arange(15.0).view(5, 3), torch.arange(14).view(2, 7)
    content = {
        "state_dict": {
            "rows": distribute_tensor(rows, mesh, [Replicate(), Shard(0)]),
            "columns": distribute_tensor(columns, mesh, [Replicate(), Shard(1)]),
            "all": distribute_tensor(rows, mesh, [Replicate(), Replicate()]),
        },
        "global_step": 1,
    }
    writer, path = WriteInBackground(background_group().group), str(folder)
    writer.give(split_shards(content), lambda own, group: write_parts(own, path, "new", group))
    writer.start(lambda: None)
    assert writer.wait().problem == ""
    whole = read_sharded(folder)["state_dict"]
    assert torch.equal(whole["rows"], rows)
    assert torch.equal(whole["columns"], columns)
    assert torch.equal(whole["all"], rows)
    flat = init_device_mesh("cpu", (4,))
    models = {
        "rows": distribute_tensor(rows, flat, [Shard(0)]),  # the last rank has none
        "columns": distribute_tensor(columns, flat, [Shard(1)]),
        "all": distribute_tensor(rows, flat, [Shard(1)]),
    }
    parts = read_sharded(folder, lambda place: models[place[1]])["state_dict"]
    for name, model in models.items():
        assert torch.equal(parts[name].to_local(), model.to_local()), name


def test_other_shardings(tmp_path):
    run_ranks(grid, 4, tmp_path / "grid")
    assert len(list((tmp_path / "grid").glob("shard-*"))) == 2
