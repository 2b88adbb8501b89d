"""Nothing in a checkpoint from elsewhere runs; one store's is never taken for another's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from clipkit.cli.main import main
from clipkit.data.storage.cache import default_cache
from clipkit.errors import CheckpointError, ConfigError
from clipkit.training.callbacks import SaveCheckpoint
from clipkit.training.checkpoints.io import AtomicCheckpointIO, use_atomic_checkpoints
from tests.helpers import tiny
from tests.helpers.servers import Misbehaviour, http_server

VERSION = {"pytorch-lightning_version": "2"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    default_cache.cache_clear()
    yield
    default_cache.cache_clear()


class Touch:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def evil(tmp_path, mark) -> Path:
    """A checkpoint that runs code for whoever unpickles it."""
    path = tmp_path / "evil.ckpt"
    torch.save({**VERSION, "state_dict": {}, "global_step": 1, "x": Touch(mark)}, path)
    with path.open("rb"):
        torch.load(path, weights_only=False)
    assert mark.exists(), "the checkpoint is harmless, and this test tells nothing"
    mark.unlink()
    return path


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("remote", [True, False])
def test_no_command_unpickles(shards, tmp_path, evil, mark, monkeypatch, command, remote, capsys):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    words = [*tiny.words(shards, tmp_path / "run"), f"--data.val={shards}/val/*.tar"]
    with http_server({"/last.ckpt": evil.read_bytes()}, Misbehaviour()) as server:
        path = f"{server}/last.ckpt" if remote else str(evil)
        assert main([command, *words, f"--ckpt_path={path}"]) == 2
    assert "last.ckpt" in capsys.readouterr().err or not remote
    assert not mark.exists()


@pytest.mark.parametrize("content", ["pickle", "torch"])
def test_no_form_of_a_pickle_is_run(tmp_path, evil, mark, content, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    if content == "pickle":
        evil.write_bytes(pickle.dumps({**VERSION, "x": Touch(mark)}))
    with pytest.raises(CheckpointError, match=r"evil\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(evil)
    assert not mark.exists()


def test_a_trainer_of_ones_own_does_not_unpickle(shards, tmp_path, evil, mark, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trainer = tiny.trainer(tmp_path, max_steps=2)
    with pytest.raises(CheckpointError):
        trainer.fit(tiny.module(), datamodule=tiny.data(shards), ckpt_path=str(evil))
    assert not mark.exists()


def test_an_io_that_wraps_another_is_no_way_round(tmp_path):
    outer = AsyncCheckpointIO()
    trainer = tiny.trainer(tmp_path, plugins=[outer])
    assert trainer.strategy.checkpoint_io is outer
    assert type(outer.checkpoint_io) is TorchCheckpointIO
    use_atomic_checkpoints(trainer)
    assert trainer.strategy.checkpoint_io is outer
    assert type(outer.checkpoint_io) is AtomicCheckpointIO


def test_unpickling_cannot_be_asked_for(shards, tmp_path, evil, mark, capsys):
    with pytest.raises(ConfigError, match="weights_only"):
        AtomicCheckpointIO().load_checkpoint(evil, weights_only=False)
    words = [*tiny.words(shards, tmp_path / "run"), f"--ckpt_path={evil}", "--weights_only=false"]
    assert main(["fit", *words]) == 2
    assert "weights_only: expected true" in capsys.readouterr().err
    assert not mark.exists()


def saved(step: int, folder: Path) -> bytes:
    path = folder / f"{step}.ckpt"
    AtomicCheckpointIO().save_checkpoint({"global_step": step, **VERSION}, path)
    return path.read_bytes()


def step_of(url: str) -> int:
    return int(AtomicCheckpointIO().load_checkpoint(url)["global_step"])


@pytest.mark.parametrize("hides_version", [False, True])
def test_a_url_is_told_by_all_of_it_and_by_its_version(tmp_path, hides_version):
    """One file name in three folders of two stores, and another version of one of them."""
    content = {
        f"/{folder}/last.ckpt": saved(step, tmp_path) for step, folder in [(1, "a"), (2, "b")]
    }
    other = {"/a/last.ckpt": saved(3, tmp_path)}
    assert len({len(data) for data in (*content.values(), *other.values())}) == 1
    trouble = Misbehaviour(hides_version=hides_version)
    with http_server(content, trouble) as first, http_server(other, trouble) as second:
        assert [step_of(f"{first}/{name}/last.ckpt") for name in "ab"] == [1, 2]
        assert step_of(f"{second}/a/last.ckpt") == 3
        content["/a/last.ckpt"] = saved(4, tmp_path)
        assert step_of(f"{first}/a/last.ckpt") == 4


def test_a_version_is_transferred_once(tmp_path):
    trouble = Misbehaviour()
    with http_server({"/last.ckpt": saved(1, tmp_path)}, trouble) as server:
        assert step_of(f"{server}/last.ckpt") == step_of(f"{server}/last.ckpt") == 1
    assert trouble.gets["/last.ckpt"] == 1


def test_a_run_continues_from_a_url(shards, tmp_path):
    first = tiny.trainer(tmp_path / "first", SaveCheckpoint(), max_steps=2)
    first.fit(tiny.module(), datamodule=tiny.data(shards))
    data = (tmp_path / "first" / "last.ckpt").read_bytes()
    with http_server({"/last.ckpt": data}, Misbehaviour()) as server:
        second = tiny.trainer(tmp_path / "second", max_steps=3)
        path = f"{server}/last.ckpt"
        second.fit(tiny.module(), datamodule=tiny.data(shards), ckpt_path=path)
        assert second.global_step == 3
        with pytest.raises(CheckpointError, match=r"ckpt_path: .*none\.ckpt: no such file"):
            AtomicCheckpointIO().load_checkpoint(f"{server}/none.ckpt")
