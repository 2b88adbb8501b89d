"""Checkpoints in parts: gone on from on any number of ranks, made one file of, never half."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from clipkit.atomic_files import put_in_place
from clipkit.cli.main import main
from clipkit.errors import CheckpointError, ConfigError
from clipkit.models import consolidate_checkpoint, load_encoder
from clipkit.models.files.sharded import (
    META,
    is_sharded,
    read_sharded,
    split_shards,
    write_sharded,
)
from clipkit.training import ShardedStrategy
from clipkit.training.callbacks import ExponentialMovingAverage, KeyLog, SaveCheckpoint
from clipkit.training.checkpoints import files as files
from clipkit.training.checkpoints.newest import newest_complete
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks

STEPS, HALF = 4, 2


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(outputs["loss"]))


def fit(
    folder: Path, run: Path, ranks: int = 1, ckpt: Path | None = None, *,
    save: SaveCheckpoint | None = None, max_steps: int = STEPS, **options: Any,
) -> list[float]:  # fmt: skip
    """Eight pairs a step on however many ranks; the losses."""
    losses = Losses()
    callbacks = [
        losses,
        ExponentialMovingAverage(),
        KeyLog(str(run / "keys.txt")),
        save or SaveCheckpoint(),
    ]
    trainer = tiny.trainer(
        run, *callbacks, max_steps=max_steps, devices=ranks, num_nodes=1, **options
    )
    data = tiny.data(folder, 8 // ranks)
    trainer.fit(tiny.module(labels=True), datamodule=data, ckpt_path=ckpt)
    return losses.values


def in_parts(rank: int, world_size: int) -> dict[str, Any]:
    return {"ranks": world_size, "strategy": ShardedStrategy(checkpoint="sharded")}


def two_ranks(rank: int, world_size: int, folder: Path, root: Path) -> list[list[float]]:
    """A whole run; runs that go on; one that a full disk disturbs."""
    run = root / "parts"
    found = [fit(folder, run, save=SaveCheckpoint(keep_every_n_steps=HALF), **in_parts(rank, 2))]
    found.append(fit(folder, root / "two", ckpt=run / f"step={HALF}.ckpt", **in_parts(rank, 2)))
    of_one = root / "by_one" / f"step={HALF}.ckpt"
    found.append(fit(folder, root / "from_one", ckpt=of_one, **in_parts(rank, 2)))
    options = {**in_parts(rank, 2), "strategy": "ddp"}
    found.append(fit(folder, root / "ddp", ckpt=run / f"step={HALF}.ckpt", **options))
    found.append(full_disk(rank, folder, root / "full_disk"))
    # a file takes the place of a folder, and a folder that of a file
    change = root / "change"
    for kind in ("sharded", "full", "sharded"):
        options = {**in_parts(rank, 2), "strategy": ShardedStrategy(checkpoint=kind)}
        fit(folder, change, max_steps=1, **options)
        assert is_sharded(change / "last.ckpt") == (kind == "sharded")
    uneven_rows(root / "uneven")
    return found


def full_disk(rank: int, folder: Path, run: Path) -> list[float]:
    """The second rank's disk refuses the save after step 2; every rank goes on."""
    real = Path.open

    def refuse(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "w" in mode and path.name.startswith("shard-00002") and state["step"] == 2:
            raise OSError(28, "No space left on device", str(path))
        return real(path, mode, *args, **options)

    state: dict[str, Any] = {"step": 0}

    class Step(Callback):
        def on_train_batch_end(self, trainer, *_: Any) -> None:
            state["step"] = trainer.global_step
            if trainer.global_step == 3 and rank == 0:
                state["kept"] = torch.load(run / "last.ckpt" / META)["global_step"]
                state["names"] = sorted(path.name for path in run.glob("*.ckpt*"))

    Path.open = refuse  # type: ignore[assignment]
    try:
        losses = Losses()
        options = in_parts(rank, 2)
        trainer = tiny.trainer(
            run, Step(), losses, SaveCheckpoint(every_n_steps=1), max_steps=STEPS, devices=2,
            num_nodes=1, strategy=options["strategy"],
        )  # fmt: skip
        trainer.fit(tiny.module(labels=True), datamodule=tiny.data(folder, 4))
    finally:
        Path.open = real  # type: ignore[assignment]
    if rank == 0:
        assert state["kept"] == 1
        assert torch.load(run / "last.ckpt" / META)["global_step"] == STEPS
        assert [path.name for path in run.iterdir()] == ["last.ckpt"]
    return losses.values


def uneven_rows(folder: Path) -> None:
    """Rows that do not divide by the ranks, or are fewer; whole tensors and other things beside."""
    mesh = init_device_mesh("cpu", (2,))
    values = {rows: torch.arange(3.0 * rows).view(rows, 3) for rows in (1, 5)}
    spread = {str(rows): distribute_tensor(value, mesh) for rows, value in values.items()}
    spread = {name: value.redistribute(mesh, [Shard(0)]) for name, value in spread.items()}
    step = torch.tensor(7.0)
    content = {"state_dict": spread, "optimizer_states": [{"state": {3: {"s": step}}}], "n": 2}
    write_sharded(split_shards(content), folder)
    whole = read_sharded(folder)
    parts = read_sharded(folder, like=lambda place: spread[place[-1]])
    assert (whole["n"], whole["optimizer_states"]) == (2, [{"state": {3: {"s": step}}}])
    for rows, value in values.items():
        assert torch.equal(whole["state_dict"][str(rows)], value)
        part = parts["state_dict"][str(rows)]
        assert part.placements == (Shard(0),)
        assert torch.equal(part.to_local(), spread[str(rows)].to_local())


def one_rank(folder: Path, run: Path) -> list[float]:
    """The same whole run in parts, by one rank, in this process."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
    try:
        options = {"strategy": ShardedStrategy(checkpoint="sharded")}
        return fit(folder, run, save=SaveCheckpoint(keep_every_n_steps=HALF), **options)
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shards(tmp_path_factory.mktemp("shards"), (60,))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def expected(folder: Path, root: Path) -> list[float]:
    """Losses of one process that nothing disturbed; and the folders of two ranks, in parts."""
    losses = fit(folder, root / "one", save=SaveCheckpoint(keep_every_n_steps=HALF))
    np.testing.assert_allclose(one_rank(folder, root / "by_one"), losses, rtol=1e-5)
    for whole, resumed, of_one, by_ddp, disturbed in run_ranks(two_ranks, 2, folder, root):
        np.testing.assert_allclose(whole, losses, rtol=1e-5)
        np.testing.assert_array_equal(resumed, whole[HALF:])
        np.testing.assert_allclose(of_one, losses[HALF:], rtol=1e-5)
        np.testing.assert_allclose(by_ddp, losses[HALF:], rtol=1e-5)
        np.testing.assert_allclose(disturbed, losses, rtol=1e-5)
    return losses


def keys(run: Path, after: int) -> list[str]:
    lines = [line.split() for line in (run / "keys.txt").read_text().splitlines()]
    return sorted(f"{step} {key}" for step, _, key in lines if int(step) > after)


def test_goes_on_exactly_on_other_numbers_of_ranks(folder, root, expected):
    losses = fit(folder, root / "on_one", ckpt=root / "parts" / f"step={HALF}.ckpt")
    np.testing.assert_allclose(losses, expected[HALF:], rtol=1e-5)
    for run in ("two", "from_one", "on_one"):
        assert keys(root / run, HALF) == keys(root / "one", HALF)
    one = torch.load(root / "on_one" / "last.ckpt", weights_only=True)["state_dict"]
    two = read_sharded(root / "from_one" / "last.ckpt")["state_dict"]
    assert one.keys() == two.keys()
    one, two = tiny.comparable(one), tiny.comparable(two)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_each_rank_writes_its_part_and_no_other(root, expected):
    parts = sorted((root / "parts" / "last.ckpt").glob("shard-*"))
    whole = (root / "one" / "last.ckpt").stat().st_size
    assert len(parts) == 2
    assert all(0.4 * whole < part.stat().st_size < 0.6 * whole for part in parts)


def test_one_file_is_made_of_it(folder, root, expected, capsys):
    ckpt, file = root / "parts" / f"step={HALF}.ckpt", root / "whole.ckpt"
    assert main(["consolidate", "--checkpoint", str(ckpt), "--output", str(file)]) == 0
    assert f"step {HALF}" in capsys.readouterr().out
    assert consolidate_checkpoint(ckpt, root / "again.ckpt") == HALF
    one = torch.load(root / "one" / f"step={HALF}.ckpt", weights_only=True)
    made = torch.load(file, weights_only=True)
    assert made.keys() == one.keys()
    assert made["state_dict"].keys() == one["state_dict"].keys()
    assert made["clipkit"].keys() == one["clipkit"].keys()
    states = [content["optimizer_states"][0] for content in (made, one)]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for number, entry in states[1]["state"].items():
        assert {name: (v.shape, v.dtype) for name, v in entry.items()} == {
            name: (v.shape, v.dtype) for name, v in states[0]["state"][number].items()
        }
    losses = fit(folder, root / "after", ckpt=file)
    np.testing.assert_allclose(losses, expected[HALF:], rtol=1e-5)
    for prefix in ("encoder.", "ema."):
        encoders = [load_encoder(source, prefix).state_dict() for source in (file, ckpt)]
        assert all(torch.equal(value, encoders[1][name]) for name, value in encoders[0].items())
    assert load_encoder(root / "parts" / "last.ckpt").image_tower is not None


@pytest.fixture
def copy(root, expected, tmp_path) -> Path:
    """A run's folder with ``step=2.ckpt`` and ``last.ckpt``, to break."""
    shutil.copytree(root / "parts", tmp_path / "run", ignore=lambda *_: {f"step={STEPS}.ckpt"})
    return tmp_path / "run"


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 64)


@pytest.mark.parametrize("broken", ["shard-00002*", META])
@pytest.mark.parametrize("breaking", [lose, cut, damage])
def test_half_one_is_left_out_by_name(copy, caplog, breaking, broken, tmp_path):
    last = copy / "last.ckpt"
    (part,) = last.glob(broken)
    breaking(part)
    assert newest_complete(str(copy)) == str(copy / f"step={HALF}.ckpt")
    assert f"skipping {last}: " in caplog.text
    output = tmp_path / "whole.ckpt"
    assert main(["consolidate", "--checkpoint", str(last), "--output", str(output)]) == 2
    assert not output.exists()
    shutil.rmtree(copy / f"step={HALF}.ckpt")
    with pytest.raises(CheckpointError, match=r"is complete \(last.ckpt: .*(missing|damaged)"):
        newest_complete(str(copy))


def test_killed_between_two_names_the_former_one_is_found_and_put_back(copy, monkeypatch):
    last, new = copy / "last.ckpt", copy / ".last.ckpt.7.tmp"
    shutil.rmtree(copy / f"step={HALF}.ckpt")
    shutil.copytree(last, new)

    rename = Path.rename

    def killed(path: Path, target: Path) -> None:
        if path == new:
            raise KeyboardInterrupt
        rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(new, last)
    monkeypatch.undo()
    assert not last.exists()
    found = newest_complete(str(copy))
    assert found is not None
    assert read_sharded(found)["global_step"] == STEPS
    files.remove_partial_files(str(copy))
    assert {path.name for path in copy.iterdir()} == {"last.ckpt", "keys.txt"}
    assert newest_complete(str(copy)) == str(last)


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"ShardedStrategy\.checkpoint: expected one of"):
        ShardedStrategy(checkpoint="half")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"ShardedStrategy\.timeout: expected a positive time"):
        ShardedStrategy(timeout=timedelta(0))


@pytest.mark.parametrize("what", ["nothing", "file"])
def test_only_folders_of_parts_are_consolidated(tmp_path, capsys, what):
    source = tmp_path / "last.ckpt"
    if what == "file":
        source.touch()
    words = ["consolidate", "--checkpoint", str(source), "--output", str(tmp_path / "out.ckpt")]
    assert main(words) == 2
    assert "expected a sharded checkpoint" in capsys.readouterr().err
