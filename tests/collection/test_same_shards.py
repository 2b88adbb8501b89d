from __future__ import annotations

import pytest

from clipkit.collection import Collection, check_same_shards
from clipkit.data import ShardIndex
from clipkit.errors import DataError
from tests.helpers.embedded_shards import embed_shards
from tests.helpers.factories import pair, write_shard, write_shards


@pytest.fixture
def collection(tmp_path):
    write_shards(tmp_path / "shards", (3, 2))
    return Collection(embed_shards(tmp_path / "shards", tmp_path / "embedded"))


def index(folder):
    return ShardIndex.from_urls(str(folder), write_sidecars=False)


def test_the_same_shards_in_another_folder(collection, tmp_path):
    (tmp_path / "shards").rename(tmp_path / "moved")
    check_same_shards(collection, index(tmp_path / "moved"))


def test_one_shard_too_few(collection, tmp_path):
    with pytest.raises(DataError, match=r"expected the 2 shards that were embedded.*got 1"):
        check_same_shards(collection, index(tmp_path / "shards/00000.tar"))


def test_another_order(collection, tmp_path):
    shards = ShardIndex.from_urls([str(tmp_path / f"shards/0000{n}.tar") for n in (1, 0)])
    with pytest.raises(DataError, match=r"expected 00000\.tar, got 00001\.tar"):
        check_same_shards(collection, shards)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (range(2), "expected 3 samples, got 2"),
        (range(1, 4), "expected .* got|keys and sizes"),
    ],
)
def test_other_samples(collection, tmp_path, samples, message):
    write_shard(tmp_path / "shards/00000.tar", [(f"new{n:04}", pair(n)) for n in samples])
    with pytest.raises(DataError, match=message):
        check_same_shards(collection, index(tmp_path / "shards"))
