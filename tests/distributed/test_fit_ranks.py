"""What a whole fit does on two ranks that one rank cannot show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clipkit.data import BatchSizeStage, OrderOptions
from clipkit.training.callbacks import KeyLog, OptunaPruning
from clipkit.when import When
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks

STAGES = [(2, 10), (4, 30)]  # samples of a step over all ranks, until so many samples
STEP_SAMPLES = 8


def fit_growing(rank: int, world_size: int, folder: Path, run: Path) -> dict[str, np.ndarray]:
    """A batch that grows from 2 to 8 samples a step; the final weights."""
    stages = [BatchSizeStage(size // world_size, When(samples=until)) for size, until in STAGES]
    ranks = {"devices": world_size, "num_nodes": 1, "strategy": "ddp"} if world_size > 1 else {}
    trainer = tiny.trainer(run, KeyLog(str(run / "keys.txt")), max_steps=8, **ranks)
    module = tiny.module()
    data = tiny.data(
        folder, STEP_SAMPLES // world_size, order=OrderOptions(batch_size_stages=stages)
    )
    trainer.fit(module, datamodule=data)
    return {name: value.numpy() for name, value in module.state_dict().items()}


def keys_of(run: Path) -> dict[int, set[str]]:
    """The keys of each step, of all ranks."""
    found: dict[int, set[str]] = {}
    for line in (run / "keys.txt").read_text().splitlines():
        step, _, key = line.split()
        found.setdefault(int(step), set()).add(key)
    return found


def test_a_growing_batch_is_that_of_one_rank(tmp_path: Path) -> None:
    folder = tiny.shards(tmp_path / "shards", (40,))
    one = fit_growing(0, 1, folder, tmp_path / "one")
    two = run_ranks(fit_growing, 2, folder, tmp_path / "two")
    assert keys_of(tmp_path / "two") == keys_of(tmp_path / "one")
    assert [len(keys) for _, keys in sorted(keys_of(tmp_path / "one").items())][:11] == (
        [2] * 5 + [4] * 5 + [8]
    )
    for name, value in two[0].items():
        np.testing.assert_array_equal(value, two[1][name])
    expected, got = (
        tiny.comparable({name: torch.from_numpy(value) for name, value in state.items()})
        for state in (one, two[0])
    )
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5, msg=name)


def fit_trial(rank: int, world_size: int, folder: Path, run: Path, storage: str) -> int:
    """A trial that its study has no use for; the step at which this rank ended it."""
    report = OptunaPruning(storage, "trials", 6, "train/loss")
    options = {"devices": world_size, "num_nodes": 1, "strategy": "ddp", "max_steps": 12}
    trainer = tiny.trainer(run, report, **options)
    trainer.fit(tiny.module(), datamodule=tiny.data(folder))
    return int(trainer.global_step)


def test_ranks_end_a_trial_without_prospects_together(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    storage = f"sqlite:///{tmp_path}/study.sqlite3"
    study = optuna.create_study(storage=storage, study_name="trials")
    for _ in range(6):
        trial = study.ask()
        for step in range(20):
            trial.report(0.0, step)
        study.tell(trial, 0.0)
    study.ask()
    folder = tiny.shards(tmp_path / "shards", (9, 32))
    ends = run_ranks(fit_trial, 2, folder, tmp_path / "run", storage)
    assert ends[0] == ends[1] < 12
    assert json.loads((tmp_path / "run" / "trial.json").read_text())["pruned"]
