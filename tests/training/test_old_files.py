"""Files that earlier versions wrote can still be read: checkpoints and the runs' config.yaml."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from clipkit.cli.main import main
from clipkit.models import from_checkpoint
from tests.helpers import tiny

FILES = Path(__file__).parent / "written_by_0_1"


@pytest.fixture
def run(tmp_path):
    """The folder of a run of version 0.1; large weights are zeros there."""
    shards = tiny.shards(tmp_path / "shards")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "last.ckpt").write_bytes(lzma.decompress((FILES / "last.ckpt.xz").read_bytes()))
    config = (FILES / "config.yaml").read_text()
    config = config.replace("SHARDS", str(shards)).replace("RUN", str(folder))
    (folder / "config.yaml").write_text(config)
    return folder


def test_checkpoint_gives_an_encoder(run):
    assert from_checkpoint(run / "last.ckpt").embedding_dim == 16


def test_run_resumes_with_its_own_configuration(run):
    words = ["fit", "-c", str(run / "config.yaml"), "--trainer.max_steps=7"]
    assert main([*words, "--ckpt_path", "last"]) == 0
    lines = (run / "keys.txt").read_text().splitlines()
    assert {int(line.split()[0]) for line in lines} == {6, 7, 8}, "5 steps were done before"


def test_new_run_takes_an_old_configuration(run, tmp_path):
    words = ["fit", "-c", str(run / "config.yaml"), "--trainer.max_steps=2"]
    assert main([*words, f"--trainer.default_root_dir={tmp_path / 'new'}"]) == 0
