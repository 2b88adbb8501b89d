"""A masked run that continues on another number of ranks, and ranks with different masks."""

from __future__ import annotations

from pathlib import Path

from clipkit.errors import ConfigError
from clipkit.training import PairOptions
from clipkit.training.callbacks import KeyLog, SaveCheckpoint
from tests.helpers import tiny
from tests.helpers.masks import save_mask
from tests.helpers.ranks import run_ranks

REMOVED = {1, 2, 8, 9, 20}
STEPS = 8  # 18 kept pairs, 4 a step over all ranks: four steps an epoch


def _fit(rank: int, world_size: int, folder: Path, run: Path, mask: str, steps: int) -> None:
    ranks = {"devices": world_size, "num_nodes": 1, "strategy": "ddp"} if world_size > 1 else {}
    last = run / "last.ckpt"
    callbacks = KeyLog(str(run / "keys.txt")), SaveCheckpoint()
    trainer = tiny.trainer(run, *callbacks, max_steps=steps, **ranks)
    data = tiny.data(folder, 4 // world_size, samples=PairOptions(mask=mask))
    trainer.fit(tiny.module(), datamodule=data, ckpt_path=last if last.exists() else None)


def _steps_of(run: Path) -> list[list[str]]:
    """The keys of each step, over all ranks, in the order of their names."""
    steps: dict[int, list[str]] = {}
    for line in (run / "keys.txt").read_text().splitlines():
        step, _, key = line.split()
        steps.setdefault(int(step), []).append(key)
    return [sorted(keys) for _, keys in sorted(steps.items())]


def test_a_run_of_two_ranks_continues_on_one(tmp_path: Path, shards: Path) -> None:
    mask = save_mask(shards, tmp_path / "m.npz", REMOVED)
    run, complete = tmp_path / "run", tmp_path / "complete"
    run_ranks(_fit, 2, shards, run, mask, 5)
    _fit(0, 1, shards, run, mask, STEPS)
    _fit(0, 1, shards, complete, mask, STEPS)
    steps = _steps_of(run)
    assert len(steps) == STEPS
    assert steps == _steps_of(complete)
    removed = {f"{number:06d}" for number in REMOVED}
    assert not removed & {key for step in steps for key in step}


def _setup(rank: int, world_size: int, folder: str, masks: list[str | None]) -> str:
    from clipkit.data import EvalTransform, OpenClipTokenizer
    from clipkit.training import PairDataModule

    data = PairDataModule(
        train=f"{folder}/train/*.tar",
        batch_size=2,
        tokenizer=OpenClipTokenizer(context_length=16),
        samples=PairOptions(transform=EvalTransform(16), mask=masks[rank]),
    )
    try:
        data.setup("fit")
    except ConfigError as error:
        return str(error)
    return ""


def test_ranks_with_different_masks_are_refused(tmp_path: Path, shards: Path) -> None:
    first, second = (save_mask(shards, tmp_path / f"{k}.npz", {k}) for k in (1, 2))
    errors = run_ranks(_setup, 2, str(shards), [first, second])
    assert errors[0] == errors[1]
    assert "the ranks read different data: masks" in errors[0]
    assert "masks" in run_ranks(_setup, 2, str(shards), [None, second])[0]
