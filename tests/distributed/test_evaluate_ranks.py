"""``clipkit evaluate`` and ``embed`` on ranks: one output, the numbers of one process."""

from __future__ import annotations

import json

import pytest

from clipkit.cli.main import main
from clipkit.evaluation import Retrieval, ZeroShotClassification, cached_embeddings
from clipkit.models import save_encoder
from tests.helpers.commands import command_on_ranks
from tests.helpers.evaluation_data import tiny_encoder, write_layout
from tests.helpers.ranks import run_ranks


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("evaluate")
    save_encoder(tiny_encoder(), folder / "model")
    data = write_layout(folder / "set", (7, 6))
    return ["--model", str(folder / "model"), "--data", str(data), "--device", "cpu"]


def test_two_ranks_give_the_numbers_of_one_and_one_output(tmp_path, words):
    words = ["evaluate", *words, "--task", "retrieval", "--task", "zero-shot", "--output"]
    (one,) = command_on_ranks([*words, str(tmp_path / "1.json")], 1)
    two = command_on_ranks([*words, str(tmp_path / "2.json")], 2)
    assert [status for status, _ in (one, *two)] == [0, 0, 0]
    assert [said.count("zero-shot/top1") for _, said in (one, *two)] == [1, 1, 0]
    records = [json.loads((tmp_path / f"{n}.json").read_text())["metrics"] for n in (1, 2)]
    assert records[0] == pytest.approx(records[1], abs=1e-9)


def test_two_ranks_embed_every_image_once(tmp_path, words, capfd):
    assert main(["embed", *words, "--output", str(tmp_path / "1")]) == 0
    alone = capfd.readouterr().out
    two = command_on_ranks(["embed", *words, "--output", str(tmp_path / "2")], 2)
    assert [status for status, _ in two] == [0, 0]
    for said in (alone, "".join(said for _, said in two)):
        assert said.count("13 images and 25 texts of 2 shards embedded") == 1
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / f"{n}").iterdir()} for n in (1, 2)
    ]
    assert len(files[0]) == 7
    assert files[0] == files[1]


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
