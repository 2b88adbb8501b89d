"""Index files next to remote shards, and shards of which only parts are transferred."""

from __future__ import annotations

import logging
import multiprocessing as mp
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from clipkit.data import OrderOptions, PairStream, ShardCache, ShardIndex, ShardReader
from clipkit.data.storage.cache import SIDECAR_SUFFIX
from clipkit.data.storage.partial import BLOCK_BYTES
from clipkit.errors import ShardError
from tests.helpers.factories import image_bytes, write_shard
from tests.helpers.fakes import ByteTokenizer, NoisyTransform
from tests.helpers.servers import Misbehaviour, http_server

NUM_SAMPLES = 12


def samples(seed: int, size=(160, 160)):
    """Images of some 40 KB, so that a sample has blocks that no other sample has."""
    return [
        (
            f"{seed}-{n:04d}",
            {"png": image_bytes(size=size, seed=seed + n, format="PNG"), "txt": b"text %d" % n},
        )
        for n in range(NUM_SAMPLES)
    ]


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    for shard in range(2):
        write_shard(folder / f"{shard:05d}.tar", samples(100 * shard))
    ShardIndex.from_urls(folder)
    return folder


def served(folder: Path) -> dict[str, bytes]:
    return {f"/{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def files(packed):
    return served(packed)


@pytest.fixture
def trouble() -> Misbehaviour:
    return Misbehaviour()


@pytest.fixture
def url(files, trouble):
    with http_server(files, trouble) as server:
        yield server + "/{00000..00001}.tar"


def cache_in(tmp_path: Path, **options) -> ShardCache:
    return ShardCache(tmp_path / "cache", retries=1, backoff_seconds=0.01, **options)


def contents(reader: ShardReader, numbers) -> list:
    return [(raw.key, raw.members) for raw in map(reader.read, numbers)]


def tars(trouble: Misbehaviour) -> int:
    return sum(count for name, count in trouble.gets.items() if name.endswith(".tar"))


def test_an_index_needs_no_shard(url, packed, tmp_path, trouble):
    index = ShardIndex.from_urls(url, cache=cache_in(tmp_path))
    local = ShardIndex.from_urls(packed)
    assert (index.num_samples, index.digest) == (local.num_samples, local.digest)
    assert index.fingerprint == local.fingerprint
    assert trouble.sent_bytes < 20_000
    trouble.gets.clear()
    ShardIndex.from_urls(url, cache=cache_in(tmp_path))
    assert tars(trouble) == 0
    assert not any(name.endswith(SIDECAR_SUFFIX) for name in trouble.gets)
    read = contents(ShardReader(index), [0, 23])
    assert read == contents(ShardReader(local), [0, 23])


def other_of_same_size(files) -> None:
    """Replace a shard by one of the same length with other keys."""
    with TemporaryDirectory() as folder:
        renamed = [(f"7-{n:04d}", members) for n, (_, members) in enumerate(samples(0))]
        data = write_shard(Path(folder) / "x.tar", renamed).read_bytes()
    assert len(data) == len(files["/00000.tar"])
    files["/00000.tar"] = data


def other_length(files) -> None:
    files["/00000.tar"] += bytes(10240)


def torn_index(files) -> None:
    name = "/00000.tar" + SIDECAR_SUFFIX
    files[name] = files[name][:-50]


def other_index(files) -> None:
    name = SIDECAR_SUFFIX
    files["/00000.tar" + name] = b"no npz"


@pytest.mark.parametrize("damage", [other_of_same_size, other_length, torn_index, other_index])
def test_an_index_that_does_not_match_is_not_used(damage, files, tmp_path, trouble, caplog):
    damage(files)
    with http_server(files, trouble) as server, caplog.at_level(logging.WARNING):
        cache = cache_in(tmp_path, ranges=True)
        index = ShardIndex.from_urls(f"{server}/00000.tar", cache=cache)
        assert "does not match the shard" in caplog.text
        key = "7-0003" if damage is other_of_same_size else "0-0003"
        assert ShardReader(index).read(3).key == key
        assert trouble.sent_bytes > len(files["/00000.tar"])


def test_parts_are_the_bytes_of_complete_shards(url, packed, tmp_path, trouble):
    index = ShardIndex.from_urls(url, cache=cache_in(tmp_path, ranges=True))
    trouble.sent_bytes = 0
    reader, oracle = ShardReader(index), ShardReader(ShardIndex.from_urls(packed))
    numbers = [3, 17, 4, 3]
    assert contents(reader, numbers) == contents(oracle, numbers)
    size = sum(len(data) for number in {*numbers} for data in oracle.read(number).members.values())
    assert size < trouble.sent_bytes < size + 3 * 2 * BLOCK_BYTES
    trouble.sent_bytes = 0
    assert contents(reader, numbers) == contents(oracle, numbers)
    again = ShardReader(ShardIndex.from_urls(url, cache=cache_in(tmp_path, ranges=True)))
    assert contents(again, numbers) == contents(oracle, numbers)
    assert trouble.sent_bytes == 0


def test_a_batch_is_transferred_before_it_is_read(url, packed, tmp_path, trouble):
    index = ShardIndex.from_urls(url, cache=cache_in(tmp_path, ranges=True))
    reader, numbers = ShardReader(index), np.array([1, 2, 14, 20])
    reader.prefetch(numbers, ["png"], wait=True)
    assert trouble.sent_bytes < 8 * BLOCK_BYTES
    reader.prefetch(numbers, wait=True)
    trouble.gets.clear()
    oracle = ShardReader(ShardIndex.from_urls(packed))
    assert contents(reader, numbers) == contents(oracle, numbers)
    assert not trouble.gets


def test_an_index_that_cannot_be_compared_is_not_used(url, files, tmp_path, trouble):
    """The server ignores ranges, and one shard has other keys at the same offsets."""
    other_of_same_size(files)
    trouble.ignores_ranges = True
    index = ShardIndex.from_urls(url, cache=cache_in(tmp_path))
    assert ShardReader(index).read(3).key == "7-0003"
    assert (trouble.gets["/00000.tar"], trouble.gets["/00001.tar"]) == (2, 2)


def test_a_server_without_ranges_sends_each_shard_once_more(
    url, files, packed, tmp_path, trouble, caplog
):
    index = ShardIndex.from_urls(url, cache=cache_in(tmp_path, ranges=True))
    trouble.ignores_ranges = True
    reader, oracle = ShardReader(index), ShardReader(ShardIndex.from_urls(packed))
    trouble.gets.clear()
    assert contents(reader, range(24)) == contents(oracle, range(24))
    assert "does not serve ranges" in caplog.text
    assert (trouble.gets["/00000.tar"], trouble.gets["/00001.tar"]) == (2, 1)


def test_a_shard_that_changes_is_named(url, files, tmp_path):
    index = ShardIndex.from_urls(url, cache=cache_in(tmp_path, ranges=True))
    reader = ShardReader(index)
    reader.read(0)
    files["/00000.tar"] = files["/00000.tar"].replace(b"text", b"TEXT")
    with pytest.raises(ShardError, match=r"00000\.tar: changed while the run was reading it"):
        reader.read(5)
    files["/00001.tar"] = files["/00001.tar"][:-2048]
    with pytest.raises(ShardError, match=r"00001\.tar: changed"):
        reader.read(14)
    del files["/00001.tar"]
    again = ShardReader(index)
    with pytest.raises(ShardError, match=r"00001\.tar: no such file"):
        again.read(14)


def test_broken_transfers_of_parts_are_repeated(url, packed, tmp_path, trouble):
    index = ShardIndex.from_urls(url, cache=cache_in(tmp_path, ranges=True))
    trouble.num_cuts, trouble.cut_after_bytes, trouble.unavailable = 1, 1000, 1
    cache = ShardCache(tmp_path / "cache", retries=4, backoff_seconds=0.01, ranges=True)
    reader = ShardReader(ShardIndex(index.shards, cache=cache))
    oracle = ShardReader(ShardIndex.from_urls(packed))
    assert contents(reader, [5]) == contents(oracle, [5])


def test_shards_without_an_index_are_transferred_completely(files, packed, tmp_path, trouble):
    bare = {name: data for name, data in files.items() if name.endswith(".tar")}
    with http_server(bare, trouble) as server:
        cache = cache_in(tmp_path, ranges=True)
        index = ShardIndex.from_urls(f"{server}/00000.tar", cache=cache)
        oracle = ShardReader(ShardIndex.from_urls(packed))
        assert contents(ShardReader(index), [3]) == contents(oracle, [3])
        assert list(cache.folder.glob("??/*00000.tar"))


def test_parts_respect_the_limit_of_the_cache(url, packed, tmp_path):
    cache = cache_in(tmp_path, ranges=True, max_bytes=200_000)
    index = ShardIndex.from_urls(url, cache=cache)
    reader, oracle = ShardReader(index), ShardReader(ShardIndex.from_urls(packed))
    for number in (*range(24), *range(24)):
        assert contents(reader, [number]) == contents(oracle, [number])
        parts = [path.stat().st_blocks * 512 for path in cache.folder.glob("??/*.blocks")]
        assert parts
        assert sum(parts) < 200_000 + 4 * BLOCK_BYTES


def test_parts_that_were_evicted_are_written_to_a_file_with_a_name(url, packed, tmp_path, trouble):
    """Not to the deleted one, whose size nobody sees."""
    cache = cache_in(tmp_path, ranges=True)
    reader = ShardReader(ShardIndex.from_urls(url, cache=cache))
    oracle = ShardReader(ShardIndex.from_urls(packed))
    assert contents(reader, [1]) == contents(oracle, [1])
    (parts,) = cache.folder.glob("??/*.blocks")
    parts.unlink()
    assert contents(reader, [2]) == contents(oracle, [2])
    assert parts.exists()
    trouble.gets.clear()
    again = ShardReader(ShardIndex.from_urls(url, cache=cache_in(tmp_path, ranges=True)))
    assert contents(again, [2]) == contents(oracle, [2])
    assert tars(trouble) == 0


def _read_all(index: ShardIndex, results) -> None:
    reader = ShardReader(index)
    results.put([len(reader.read(n).members["png"]) for n in range(index.num_samples)])


def test_processes_share_the_parts(url, packed, tmp_path, trouble):
    index = ShardIndex.from_urls(url, cache=cache_in(tmp_path, ranges=True))
    context = mp.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_read_all, args=(index, results)) for _ in range(2)]
    for process in processes:
        process.start()
    sizes = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    oracle = ShardReader(ShardIndex.from_urls(packed))
    assert sizes == [[len(oracle.read(n).members["png"]) for n in range(24)]] * 2


def test_s3_serves_parts(packed, tmp_path, s3_endpoint):
    client = pytest.importorskip("boto3").client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="parts")
    for path in packed.iterdir():
        client.put_object(Bucket="parts", Key=path.name, Body=path.read_bytes())
    index = ShardIndex.from_urls("s3://parts/*.tar", cache=cache_in(tmp_path, ranges=True))
    oracle = ShardReader(ShardIndex.from_urls(packed))
    assert contents(ShardReader(index), [2, 20]) == contents(oracle, [2, 20])
    parts = list((tmp_path / "cache").glob("??/*.blocks"))
    assert len(parts) == 2
    assert sum(path.stat().st_blocks * 512 for path in parts) < 300_000


@pytest.mark.parametrize("buckets", [None, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_stream_of_parts_is_the_stream_of_shards(url, tmp_path, buckets, world_size):
    """With and without captions that are sorted by length."""
    caches = (cache_in(tmp_path, ranges=True), ShardCache(tmp_path / "complete"))
    for rank in range(world_size):
        streams = [
            PairStream(
                ShardIndex.from_urls(url, cache=cache),
                tokenizer=ByteTokenizer(),
                image_transform=NoisyTransform(),
                batch_size=3,
                rank=rank,
                world_size=world_size,
                order=OrderOptions(length_bucket_batches=buckets),
            )
            for cache in caches
        ]
        pairs = list(zip(*streams, strict=True))
        assert len(pairs) == NUM_SAMPLES * 2 // (3 * world_size)
        for parts, shards in pairs:
            assert parts.keys == shards.keys
            assert torch.equal(parts.images, shards.images)
            assert torch.equal(parts.tokens, shards.tokens)
