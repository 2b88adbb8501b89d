"""``clipkit evaluate`` and ``embed`` under torchrun: one output, the numbers of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipkit.evaluation import Retrieval, ZeroShotClassification, cached_embeddings
from clipkit.models import save_encoder
from tests.helpers.evaluation_data import tiny_encoder, write_layout
from tests.helpers.ranks import free_port, run_ranks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("evaluate")
    save_encoder(tiny_encoder(), folder / "model")
    data = write_layout(folder / "set", (7, 6))
    return ["--model", str(folder / "model"), "--data", str(data), "--device", "cpu"]


def clipkit(*words: str, ranks: int) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks)]
    launcher += ["--master_port", str(free_port())] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "clipkit.cli.main", *words]
    if ranks == 1:
        command = [sys.executable, "-m", "clipkit.cli.main", *words]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(paths)}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=250, check=False
    )


def test_two_ranks_give_the_numbers_of_one_and_one_output(tmp_path, words):
    tasks = ["--task", "retrieval", "--task", "zero-shot"]
    records = {}
    for ranks in (1, 2):
        output = tmp_path / f"{ranks}.json"
        done = clipkit("evaluate", *words, *tasks, "--output", str(output), ranks=ranks)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("zero-shot/top1") == 1
        records[ranks] = json.loads(output.read_text())["metrics"]
    assert records[1] == pytest.approx(records[2], abs=1e-9)


def test_two_ranks_embed_every_image_once(tmp_path, words):
    files = {}
    for ranks in (1, 2):
        output = tmp_path / f"{ranks}"
        done = clipkit("embed", *words, "--output", str(output), ranks=ranks)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("13 images and 25 texts of 2 shards embedded") == 1
        files[ranks] = {path.name: path.read_bytes() for path in output.iterdir()}
    assert len(files[1]) == 7
    assert files[1] == files[2]


def embed_twice(rank: int, world_size: int, root: str, cache: str):
    encoder = tiny_encoder()
    numbers = []
    for _ in range(2):
        with cached_embeddings(encoder, cache):
            numbers.append(
                {**Retrieval(root).run(encoder), **ZeroShotClassification(root).run(encoder)}
            )
    return numbers


def test_ranks_share_a_cache_with_one_process(tmp_path):
    root = write_layout(tmp_path / "set", (5,))
    ranks = run_ranks(embed_twice, 2, str(root), str(tmp_path / "cache"))
    files = sorted((tmp_path / "cache").rglob("*.npz"))
    alone = embed_twice(0, 1, str(root), str(tmp_path / "cache"))
    assert ranks[0] == ranks[1] == alone
    assert sorted((tmp_path / "cache").rglob("*.npz")) == files
    assert len(files) == 3
