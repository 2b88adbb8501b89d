"""Fits on two ranks whose shares of the shards differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipkit.data import FaultOptions
from clipkit.training import PairDataModule, StorageOptions, WebDatasetOptions
from clipkit.training.callbacks import KeyLog, SaveCheckpoint
from tests.helpers import tiny
from tests.helpers.factories import pair, write_shard
from tests.helpers.ranks import run_ranks


def fit(rank: int, world_size: int, folder: Path, run: Path, max_epochs: int) -> dict[str, Any]:
    data = PairDataModule(
        train=str(folder),
        batch_size=4,
        storage=StorageOptions(webdataset=WebDatasetOptions(num_samples=50)),
        faults=FaultOptions(max_bad_fraction=0.2),
    )
    trainer = tiny.trainer(
        run, KeyLog(str(run / "keys.txt")), SaveCheckpoint(),
        max_epochs=max_epochs, devices=world_size, num_nodes=1, strategy="ddp",
    )  # fmt: skip
    last = run / "last.ckpt"
    trainer.fit(tiny.module(), datamodule=data, ckpt_path=last if last.exists() else None)
    return {"steps": trainer.global_step, **data.state_dict()["train"]}


def test_no_rank_runs_dry_and_all_have_one_state(tmp_path: Path) -> None:
    counts, number = [2, 31, 3, 14], 0
    for shard, count in enumerate(counts):
        samples = [(f"{number + place:04d}", pair(number + place)) for place in range(count)]
        if shard == 2:
            samples[1][1]["jpg"] = b"no image"
        write_shard(tmp_path / "shards" / f"{shard}.tar", samples)
        number += count
    run = tmp_path / "run"
    first, second = run_ranks(fit, 2, tmp_path / "shards", run, 3)
    assert first == second
    assert (first["steps"], first["samples_seen"], first["epoch"]) == (18, 144, 3)
    assert [key for _, _, key, _ in first["bad_samples"]] == ["0034"]
    first, second = run_ranks(fit, 2, tmp_path / "shards", run, 4)
    assert first == second
    assert (first["steps"], first["samples_seen"]) == (24, 192)
    steps = [line.split()[0] for line in (run / "keys.txt").read_text().splitlines()]
    assert {steps.count(step) for step in steps} == {8}
