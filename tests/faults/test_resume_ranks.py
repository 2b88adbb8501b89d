"""Two ranks under a real Trainer, stopped anywhere: the same samples and the same weights again."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from clipkit.training.callbacks import KeyLog, SaveCheckpoint
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks

STEPS = 12  # 41 pairs, 8 a step: five steps an epoch and one pair too few; ends in the third
STOPS = {"mid-epoch": 3, "epoch's end": 5, "second epoch": 7, "its end": 10, "last step": 11}


class Stop(Callback):
    """Crashes every rank, or asks it to end, in the middle of a step."""

    def __init__(self, step: int, sigterm: bool = False) -> None:
        self.step = step
        self.sigterm = sigterm

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == self.step:
            if not self.sigterm:
                raise RuntimeError("crash")
            os.kill(os.getpid(), signal.SIGTERM)


def fit(
    folder: Path, run: Path, *callbacks: Callback, batch_size: int, ckpt: Path | None = None,
    **options: Any,
) -> str:  # fmt: skip
    """Train; a digest of the final weights."""
    trainer = tiny.trainer(
        run, KeyLog(str(run / "keys.txt")), *callbacks, **{"max_steps": STEPS, **options}
    )
    module = tiny.module()
    trainer.fit(module, datamodule=tiny.data(folder, batch_size), ckpt_path=ckpt)
    weights = b"".join(value.numpy().tobytes() for value in module.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


def stop_and_resume(rank: int, world_size: int, folder: Path, root: Path) -> dict[str, str]:
    """Every kind of interruption, one after the other, in one group of processes."""
    options = {"batch_size": 4, "devices": world_size, "num_nodes": 1, "strategy": "ddp"}
    whole, found = root / "whole", {}
    found["whole"] = fit(folder, whole, SaveCheckpoint(keep_every_n_steps=1), **options)
    for name, step in STOPS.items():
        ckpt = whole / f"step={step}.ckpt"
        found[name] = fit(folder, root / name, ckpt=ckpt, **options)
    for name, steps in {"exception": [6], "twice": [3, 8]}.items():
        last = None
        for step in steps:
            save = SaveCheckpoint(every_n_steps=2)
            with pytest.raises(RuntimeError, match="crash"):
                fit(folder, root / name, Stop(step), save, ckpt=last, **options)
            last = root / name / "last.ckpt"
        found[name] = fit(folder, root / name, ckpt=last, **options)
    with pytest.raises(SystemExit):
        fit(folder, root / "sigterm", Stop(6, sigterm=True), SaveCheckpoint(), **options)
    found["sigterm"] = fit(folder, root / "sigterm", ckpt=root / "sigterm" / "last.ckpt", **options)
    fit(folder, root / "1 to 2", ckpt=root / "one" / "step=4.ckpt", **options)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shards(tmp_path_factory.mktemp("shards"), (9, 32))


@pytest.fixture(scope="module")
def root(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs lie; ``one`` is an undisturbed run of one process on the joined batch."""
    root = tmp_path_factory.mktemp("runs")
    fit(folder, root / "one", SaveCheckpoint(keep_every_n_steps=1), batch_size=8)
    return root


@pytest.fixture(scope="module")
def digests(folder: Path, root: Path) -> list[dict[str, str]]:
    return run_ranks(stop_and_resume, 2, folder, root, timeout_seconds=240)


def keys_of(run: Path) -> dict[tuple[int, int], list[str]]:
    """The keys of each step and rank, in their order."""
    found: dict[tuple[int, int], list[str]] = {}
    for line in (run / "keys.txt").read_text().splitlines():
        step, rank, key = line.split()
        found.setdefault((int(step), int(rank)), []).append(key)
    return found


def joined(run: Path) -> dict[int, list[str]]:
    """The keys of each step, of one rank after the other."""
    steps: dict[int, list[str]] = {}
    for (step, _), keys in sorted(keys_of(run).items()):
        steps.setdefault(step, []).extend(keys)
    return steps


@pytest.mark.parametrize("name", [*STOPS, "exception", "twice", "sigterm"])
def test_two_ranks_end_as_if_nothing_had_happened(
    root: Path, digests: list[dict[str, str]], name: str
) -> None:
    first, second = digests
    start = STOPS.get(name, 0)  # a run that began in a folder of its own has the later steps
    whole = keys_of(root / "whole")
    assert keys_of(root / name) == {at: keys for at, keys in whole.items() if at[0] > start}
    assert first[name] == second[name] == first["whole"]


def test_an_epoch_of_two_ranks_gives_no_sample_twice(
    root: Path, digests: list[dict[str, str]]
) -> None:
    steps = joined(root / "whole")
    assert sorted(steps) == list(range(1, STEPS + 1))
    for epoch in range(2):
        keys = [key for step in range(5 * epoch + 1, 5 * epoch + 6) for key in steps[step]]
        assert len(set(keys)) == 40


def test_the_state_of_a_checkpoint_depends_on_no_rank(
    folder: Path, root: Path, digests: list[dict[str, str]]
) -> None:
    """Apart from the cursor, which is the same, everything is that of one process."""
    stored = [
        torch.load(root / run / "step=7.ckpt", weights_only=True)["PairDataModule"]["train"]
        for run in ("whole", "one")
    ]
    assert stored[0]["position"] == stored[1]["position"] == 16
    assert {**stored[0], "layouts": None} == {**stored[1], "layouts": None}


def test_one_rank_resumed_on_two_and_two_on_one(
    folder: Path, root: Path, digests: list[dict[str, str]]
) -> None:
    undisturbed = joined(root / "one")
    assert joined(root / "whole") == undisturbed
    assert joined(root / "1 to 2") == {s: k for s, k in undisturbed.items() if s > 4}
    fit(folder, root / "2 to 1", ckpt=root / "whole" / "step=7.ckpt", batch_size=8)
    assert joined(root / "2 to 1") == {s: k for s, k in undisturbed.items() if s > 7}


def train_until_killed(rank: int, world_size: int, folder: Path, run: Path) -> str:
    """Two ranks that save after every step; the second one is killed in the ninth."""

    class Kill(Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            if trainer.global_step == 8 and rank == 1 and not (run / "killed").exists():
                (run / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)

    last = run / "last.ckpt"
    return fit(
        folder, run, Kill(), SaveCheckpoint(every_n_steps=1), batch_size=4, devices=world_size,
        num_nodes=1, strategy="ddp", ckpt=last if last.exists() else None,
    )  # fmt: skip


def test_a_rank_that_was_killed(folder: Path, root: Path, digests: list[dict[str, str]]) -> None:
    """Its fellow ends with an error; both go on from the last whole checkpoint."""
    run = root / "killed"
    start = time.monotonic()
    with pytest.raises(AssertionError, match="rank 0 failed"):
        run_ranks(train_until_killed, 2, folder, run)
    assert time.monotonic() - start < 100  # it did not wait for its fellow for ever
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 8
    ends = run_ranks(train_until_killed, 2, folder, run)
    assert ends == [digests[0]["whole"]] * 2
    assert keys_of(run) == keys_of(root / "whole")
