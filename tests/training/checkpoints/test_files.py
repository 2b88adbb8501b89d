"""Which checkpoint a run goes on from, on disks and in stores, whole and half."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.training.callbacks import SaveCheckpoint
from clipkit.training.checkpoints import files as files
from clipkit.training.checkpoints.io import AtomicCheckpointIO
from clipkit.training.checkpoints.newest import newest_complete
from tests.helpers import tiny

VERSION = {"pytorch-lightning_version": "2"}


@pytest.fixture
def store():
    """A folder of a store, empty again afterwards."""
    system = fsspec.filesystem("memory")
    yield "memory://bucket/run"
    system.rm("/bucket", recursive=True)


def save(folder, name: str, step: int) -> str:
    path = files.join(folder, name)
    weights = torch.arange(50_000) % 251
    AtomicCheckpointIO().save_checkpoint({"global_step": step, "w": weights, **VERSION}, path)
    return path


def cut(path: str) -> None:
    os.truncate(path, Path(path).stat().st_size // 2)


def damage(path: str) -> None:
    """Other bytes in the middle, as a bad disk leaves them; the length stays."""
    with Path(path).open("r+b") as file:
        file.seek(Path(path).stat().st_size // 2)
        file.write(b"\xff" * 64)


def test_last_is_the_newest(tmp_path):
    save(tmp_path, "step=4.ckpt", 4)
    last = save(tmp_path, "last.ckpt", 6)
    assert newest_complete(str(tmp_path)) == last


@pytest.mark.parametrize("breaking", [cut, damage])
def test_half_checkpoint_is_left_out_by_name(tmp_path, caplog, breaking):
    save(tmp_path, "step=4.ckpt", 4)
    furthest = save(tmp_path, "best.ckpt", 5)
    os.utime(furthest, (1, 1))  # copied folders have arbitrary times: the step counts
    breaking(save(tmp_path, "last.ckpt", 6))
    assert newest_complete(str(tmp_path)) == furthest
    assert "last.ckpt: " in caplog.text
    assert "continuing from best.ckpt" in caplog.text


def test_only_half_checkpoints_are_refused_by_name(tmp_path):
    cut(save(tmp_path, "last.ckpt", 6))
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is complete \(last\.ckpt: inc"):
        newest_complete(str(tmp_path))


def test_no_checkpoint_is_no_error(tmp_path):
    assert newest_complete(str(tmp_path)) is None
    assert newest_complete(str(tmp_path / "nowhere")) is None
    (tmp_path / ".last.ckpt.1.tmp").write_bytes(b"half")
    assert newest_complete(str(tmp_path)) is None


def test_what_killed_runs_left_half_is_swept(shards, tmp_path):
    (tmp_path / ".last.ckpt.77.tmp").write_bytes(b"half")
    fit(shards, tmp_path, SaveCheckpoint())
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def fit(shards, run, *callbacks, ckpt=None, **options):
    trainer = tiny.trainer(run, *callbacks, **{"max_steps": 6, **options})
    trainer.fit(tiny.module(), datamodule=tiny.data(shards), ckpt_path=ckpt)
    return trainer


def test_checkpoints_in_a_store_by_policy(shards, tmp_path, store):
    fit(shards, tmp_path, SaveCheckpoint(folder=store, keep_every_n_steps=2), max_steps=5)
    names = {
        path.rsplit("/", 1)[-1] for path in fsspec.filesystem("memory").ls("/bucket/run", False)
    }
    assert names == {"last.ckpt", "step=2.ckpt", "step=4.ckpt"}
    last = newest_complete(store)
    assert last == f"{store}/last.ckpt"
    trainer = fit(shards, tmp_path, SaveCheckpoint(folder=store), ckpt=last, max_steps=7)
    assert trainer.global_step == 7
    assert not list(tmp_path.iterdir())


def test_half_checkpoint_in_a_store_is_left_out(store):
    save(store, "step=4.ckpt", 4)
    path = save(store, "step=6.ckpt", 6)
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/run/last.ckpt", system.cat_file("/bucket/run/step=6.ckpt")[:1000])
    assert newest_complete(store) == path


@pytest.mark.usefixtures("s3_endpoint")
def test_checkpoints_on_s3(shards, tmp_path):
    """Against a real S3 server on loopback: keep, fall back, go on."""
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.mkdir("kept-models")
    folder = "s3://kept-models/run"
    fit(shards, tmp_path, SaveCheckpoint(folder=folder, keep_every_n_steps=2), max_steps=3)
    system.pipe_file("kept-models/run/last.ckpt", b"half")
    found = newest_complete(folder)
    assert found == f"{folder}/step=2.ckpt"
    assert fit(shards, tmp_path, ckpt=found, max_steps=4).global_step == 4


class TestDiskFull:
    def fill(self, monkeypatch, fails):
        """``torch.save`` meets a full disk as long as ``fails()`` says so."""
        real = torch.save

        def with_cause(content, target, *args, **options):
            try:
                if fails():
                    raise OSError(28, "No space left on device")
            except OSError:
                raise RuntimeError("unexpected pos 576 vs 534")  # noqa: B904
            real(content, target, *args, **options)

        monkeypatch.setattr(torch, "save", with_cause)

    def test_run_goes_on_and_saves_when_there_is_room_again(
        self, shards, tmp_path, monkeypatch, caplog
    ):
        calls = iter([False, True, True, False, False, False, False])
        self.fill(monkeypatch, lambda: next(calls))
        trainer = fit(shards, tmp_path, SaveCheckpoint(every_n_steps=1))
        assert trainer.global_step == 6
        assert caplog.text.count("No space left on device; the run continues") == 2
        assert torch.load(tmp_path / "last.ckpt")["global_step"] == 6

    def test_end_that_cannot_be_written_is_an_error(self, shards, tmp_path, monkeypatch):
        fit(shards, tmp_path, SaveCheckpoint(), max_steps=2)
        self.fill(monkeypatch, lambda: True)
        with pytest.raises(
            CheckpointError, match=r"after step 6 .*No space left.*--ckpt_path last"
        ):
            fit(shards, tmp_path, SaveCheckpoint(), ckpt=tmp_path / "last.ckpt")
        assert torch.load(tmp_path / "last.ckpt")["global_step"] == 2


class TestLastOfTheCommand:
    def test_validate_needs_one(self, shards, tmp_path):
        from clipkit.cli.fit.trainer_cli import last_checkpoint

        with pytest.raises(ConfigError, match="ckpt_path: expected a checkpoint in"):
            last_checkpoint(True, tiny.trainer(tmp_path))

    def test_it_lies_where_the_run_writes(self, shards, tmp_path):
        from clipkit.cli.fit.trainer_cli import last_checkpoint

        elsewhere = save(tmp_path / "elsewhere", "last.ckpt", 3)
        save(tmp_path, "last.ckpt", 9)
        trainer = tiny.trainer(tmp_path, SaveCheckpoint(folder=str(tmp_path / "elsewhere")))
        assert last_checkpoint(False, trainer) == elsewhere
