"""Remote shards: transfers that resume, a cache for many processes, real servers."""

from __future__ import annotations

import errno
import json
import multiprocessing as mp
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipkit.data.storage.remote as remote_module
from clipkit.data import PairStream, ShardCache, ShardIndex, ShardReader
from clipkit.data.storage.cache import RemoteFile
from clipkit.data.storage.prefetch import Prefetcher
from clipkit.data.storage.room import PART_SUFFIX
from clipkit.data.storage.urls import parse_address
from clipkit.errors import ConfigError, DataError, FaultBudgetExceeded, ShardError
from tests.helpers.factories import write_shards
from tests.helpers.fakes import ByteTokenizer, NoisyTransform, first_text, flat_stream
from tests.helpers.ranks import free_port
from tests.helpers.servers import Misbehaviour, http_server
from tests.helpers.streams import train


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two folders with shards of the same base names."""
    folder = tmp_path_factory.mktemp("remote")
    for start, name in [(0, "a"), (100, "b")]:
        write_shards(folder / name, [6, 7], start=start)
    return {
        f"/{path.relative_to(folder)}": path.read_bytes() for path in sorted(folder.rglob("*.tar"))
    }


@pytest.fixture
def trouble() -> Misbehaviour:
    return Misbehaviour()


@pytest.fixture
def server(files: dict[str, bytes], trouble: Misbehaviour) -> Iterator[str]:
    with http_server(dict(files), trouble) as url:
        yield url


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path / "cache", retries=2, backoff_seconds=0.01)


def make(index: ShardIndex, **options: Any) -> PairStream:
    return flat_stream(
        index,
        tokenizer=ByteTokenizer(),
        image_transform=NoisyTransform(),
        caption=first_text,
        batch_size=4,
        **options,
    )


def parts(cache: ShardCache) -> list[Path]:
    return list(cache.folder.glob("??/*.part"))


def test_a_stream_over_http_with_colliding_base_names(
    server: str, cache: ShardCache, trouble: Misbehaviour
) -> None:
    index = ShardIndex.from_urls(f"{server}/{{a,b}}/{{00000..00001}}.tar", cache=cache)
    assert index.counts.tolist() == [6, 7, 6, 7]
    keys = [int(key) for batch in make(index, tail="pad") for key in batch.keys]
    assert set(keys) == {*range(13), *range(100, 113)}
    assert fetched(trouble) == {1}
    again = ShardIndex.from_urls(f"{server}/{{a,b}}/{{00000..00001}}.tar", cache=cache)
    assert again.fingerprint == index.fingerprint
    assert fetched(trouble) == {1}


def fetched(trouble: Misbehaviour) -> set[int]:
    """How often the shards were asked for."""
    return {number for path, number in trouble.gets.items() if path.endswith(".tar")}


def test_known_counts_spare_the_scan(server: str, cache: ShardCache, trouble: Misbehaviour) -> None:
    urls = f"{server}/a/{{00000..00001}}.tar"
    index = ShardIndex.from_urls(urls, counts={"00000.tar": 6, "00001.tar": 7}, cache=cache)
    assert index.num_samples == 13
    assert not trouble.gets
    assert ShardReader(index).read(12).key == "000012"
    assert list(trouble.gets) == ["/a/00001.tar"]


def test_a_wrong_count_is_noticed_when_the_shard_is_read(server: str, cache: ShardCache) -> None:
    index = ShardIndex.from_urls(f"{server}/a/00000.tar", counts={"00000.tar": 9}, cache=cache)
    with pytest.raises(FaultBudgetExceeded, match=r"expected 9 samples.*got 6"):
        list(make(index))


def test_a_broken_transfer_goes_on_where_it_broke(
    server: str,
    files: dict[str, bytes],
    cache: ShardCache,
    trouble: Misbehaviour,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote_module, "_PIECE_BYTES", 4096)
    data = files["/a/00001.tar"]
    trouble.cut_after_bytes, trouble.num_cuts = 1000, 2
    remote = cache.stat(parse_address(f"{server}/a/00001.tar"))
    assert cache.fetch(remote).read_bytes() == data
    # Two pieces came twice; nothing else did.
    assert trouble.sent_bytes <= len(data) + 2 * 4096


def test_what_a_killed_process_left_is_kept(
    server: str,
    files: dict[str, bytes],
    cache: ShardCache,
    trouble: Misbehaviour,
) -> None:
    data = files["/a/00001.tar"]
    remote = cache.stat(parse_address(f"{server}/a/00001.tar"))
    path = cache.path_of(remote)
    path.parent.mkdir(parents=True)
    Path(f"{path}.part").write_bytes(data[:20_000])
    assert cache.fetch(remote).read_bytes() == data
    assert trouble.sent_bytes == len(data) - 20_000
    assert parts(cache) == []


def test_a_busy_server_is_asked_again(
    server: str, files: dict[str, bytes], cache: ShardCache, trouble: Misbehaviour
) -> None:
    trouble.unavailable = 2
    remote = cache.stat(parse_address(f"{server}/a/00000.tar"))
    assert cache.fetch(remote).read_bytes() == files["/a/00000.tar"]
    trouble.unavailable = 3
    with pytest.raises(ShardError, match=r"gave up after 2 retries; last error: .*503"):
        cache.fetch(cache.stat(parse_address(f"{server}/a/00001.tar")))


def test_a_server_that_stalls_is_asked_again_and_a_slow_one_is_waited_for(
    server: str, files: dict[str, bytes], tmp_path: Path, trouble: Misbehaviour
) -> None:
    cache = ShardCache(tmp_path, retries=1, backoff_seconds=0.01, stall_seconds=0.2)
    remote = cache.stat(parse_address(f"{server}/a/00000.tar"))
    trouble.num_stalls, trouble.stall_seconds = 1, 1.0
    start = time.monotonic()
    assert cache.fetch(remote).read_bytes() == files["/a/00000.tar"]
    assert time.monotonic() - start < 1.0  # it did not wait for the stalled answer
    trouble.num_stalls = 2
    with pytest.raises(ShardError, match=r"gave up after 1 retries; last error: .*[Tt]ime"):
        cache.fetch(cache.stat(parse_address(f"{server}/a/00001.tar")))
    trouble.pace_seconds = 0.05  # in all more than stall_seconds
    assert len(files["/b/00001.tar"]) > 5 * 4096
    slow = cache.stat(parse_address(f"{server}/b/00001.tar"))
    assert cache.fetch(slow).read_bytes() == files["/b/00001.tar"]


def test_a_missing_shard_is_named_at_once(
    server: str, cache: ShardCache, trouble: Misbehaviour
) -> None:
    with pytest.raises(ShardError, match=r"/a/00007\.tar: no such file"):
        ShardIndex.from_urls(f"{server}/a/00007.tar", cache=cache)


def test_servers_that_ignore_ranges(
    server: str, files: dict[str, bytes], cache: ShardCache, trouble: Misbehaviour
) -> None:
    trouble.ignores_ranges = True
    remote = cache.stat(parse_address(f"{server}/a/00001.tar"))
    path = cache.path_of(remote)
    path.parent.mkdir(parents=True)
    Path(f"{path}.part").write_bytes(b"x" * 100)
    assert cache.fetch(remote).read_bytes() == files["/a/00001.tar"]


def test_servers_that_do_not_tell_lengths(
    server: str, files: dict[str, bytes], cache: ShardCache, trouble: Misbehaviour
) -> None:
    trouble.hides_length = True
    index = ShardIndex.from_urls(f"{server}/a/00001.tar", cache=cache)
    assert index.shards[0].size_bytes == -1
    assert ShardReader(index).read(3).key == "000009"


def test_a_shard_that_changes_on_the_server_is_named(
    files: dict[str, bytes], cache: ShardCache, trouble: Misbehaviour
) -> None:
    served = dict(files)
    with http_server(served, trouble) as url:
        remote = cache.stat(parse_address(f"{url}/a/00000.tar"))
        served["/a/00000.tar"] = (
            bytearray(files["/a/00000.tar"])[::-1].hex()[: len(files["/a/00000.tar"])].encode()
        )
        with pytest.raises(ShardError, match="changed while the run was reading it"):
            cache.fetch(remote)
        assert parts(cache) == []
        # A new index takes the new version, not the old copy.
        assert cache.stat(parse_address(f"{url}/a/00000.tar")).stamp != remote.stamp


def test_the_least_recently_used_go_first(
    server: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    names = list(files)
    limit = sum(len(files[name]) for name in names[:3]) + 1000
    cache = ShardCache(tmp_path / "small", max_bytes=limit)
    remotes = [cache.stat(parse_address(server + name)) for name in names]
    paths = [cache.fetch(remote) for remote in remotes[:3]]
    for age, path in zip((30, 20, 10), paths, strict=True):
        os.utime(path, (time.time() - age, time.time() - age))
    cache.fetch(remotes[0])
    cache.fetch(remotes[3])
    assert paths[0].exists()
    assert not paths[1].exists()
    total = sum(path.stat().st_size for path in cache.folder.glob("??/*.tar"))
    assert total <= limit


def test_an_evicted_shard_is_read_on(server: str, cache: ShardCache) -> None:
    index = ShardIndex.from_urls(f"{server}/a/00000.tar", cache=cache)
    reader = ShardReader(index)
    first = reader.read(0)
    for path in cache.folder.glob("??/*.tar"):
        path.unlink()
    assert reader.read(1).key == "000001"
    assert ShardReader(index).read(0).members == first.members


def test_a_limit_below_one_shard_is_refused(server: str, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "tiny", max_bytes=1000)
    with pytest.raises(DataError, match="does not fit into max_bytes=1000"):
        ShardIndex.from_urls(f"{server}/a/00000.tar", cache=cache)


def test_the_content_is_on_the_disk_before_the_name(
    server: str, cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a shard of the right size would otherwise pass as complete."""
    remote = cache.stat(parse_address(f"{server}/a/00000.tar"))
    states: list[tuple[str, bool]] = []

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        states.append((name, cache.path_of(remote).exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    path = cache.fetch(remote)
    assert (f"{path.name}{PART_SUFFIX}", False) in states


def test_a_full_disk_is_not_tried_again(
    server: str, cache: ShardCache, trouble: Misbehaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    remote = cache.stat(parse_address(f"{server}/a/00000.tar"))
    monkeypatch.setattr(remote_module, "_copy_pieces", full)
    with pytest.raises(OSError, match="No space left"):
        cache.fetch(remote)


def _fetch(url: str, folder: Path, results: Any) -> None:
    cache = ShardCache(folder)
    results.put(len(cache.fetch(cache.stat(parse_address(url))).read_bytes()))


def test_many_processes_share_one_transfer(
    server: str, files: dict[str, bytes], tmp_path: Path, trouble: Misbehaviour
) -> None:
    context = mp.get_context("fork")
    results = context.Queue()
    url = f"{server}/b/00001.tar"
    processes = [
        context.Process(target=_fetch, args=(url, tmp_path / "shared", results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    sizes = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(timeout=60)
    assert sizes == {len(files["/b/00001.tar"])}
    assert trouble.gets["/b/00001.tar"] == 1


def test_prefetching(server: str, cache: ShardCache, trouble: Misbehaviour) -> None:
    remotes = [cache.stat(parse_address(f"{server}/a/0000{i}.tar")) for i in (0, 1)]
    missing = RemoteFile(parse_address(f"{server}/a/nothing.tar"), 10, "x")
    prefetcher = Prefetcher(cache.fetch)
    prefetcher.request([*remotes, missing])
    prefetcher.request([*remotes, missing], wait=True)
    assert all(cache.path_of(remote).exists() for remote in remotes)
    assert {name: trouble.gets[name] for name in ("/a/00000.tar", "/a/00001.tar")} == {
        "/a/00000.tar": 1, "/a/00001.tar": 1,
    }  # fmt: skip


def test_a_reader_asks_for_what_comes_next(server: str, cache: ShardCache) -> None:
    urls = f"{server}/a/{{00000..00001}}.tar"
    index = ShardIndex.from_urls(urls, counts={"00000.tar": 6, "00001.tar": 7}, cache=cache)
    reader = ShardReader(index)
    reader.prefetch(np.array([0, 2, 7, 12]))
    deadline = time.monotonic() + 30
    while len(list(cache.folder.glob("??/*.tar"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_remote_streams_equal_local_ones(server: str, cache: ShardCache, tmp_path: Path) -> None:
    """Same window, same order: where the bytes lie does not matter; nor do workers."""
    write_shards(tmp_path / "a", [6, 7])
    local = ShardIndex.from_urls(tmp_path / "a")
    remote = ShardIndex.from_urls(f"{server}/a/{{00000..00001}}.tar", cache=cache)
    state = make(local, shuffle_window=5).state_dict()
    streams = [make(local), make(remote), make(remote, num_workers=2)]
    for stream in streams:
        assert stream.state_dict()["fingerprint"] == state["fingerprint"]
        stream.load_state_dict(state)
    runs = [train(stream, 6) for stream in streams]
    assert runs[0] == runs[1] == runs[2]


def test_workers_fetch_for_themselves(server: str, cache: ShardCache) -> None:
    """A forked worker gets a connection of its own, not its parent's."""
    urls = f"{server}/a/{{00000..00001}}.tar"
    index = ShardIndex.from_urls(urls, counts={"00000.tar": 6, "00001.tar": 7}, cache=cache)
    assert not list(cache.folder.glob("??/*.tar"))
    seen = train(make(index, num_workers=2), 3)
    assert len({sample for batch in seen for sample in batch}) == 12


def test_counts_beside_remote_shards_spare_the_scan(
    files: dict[str, bytes], cache: ShardCache, trouble: Misbehaviour
) -> None:
    sizes = json.dumps({"00000.tar": 6, "00001.tar": 7}).encode()
    with http_server({**files, "/a/sizes.json": sizes}, trouble) as url:
        index = ShardIndex.from_urls(f"{url}/a/{{00000..00001}}.tar", cache=cache)
    assert index.counts.tolist() == [6, 7]
    assert not fetched(trouble)


def test_a_remote_wids_index_stands_for_its_shards(
    files: dict[str, bytes], cache: ShardCache, trouble: Misbehaviour
) -> None:
    entries = [{"url": f"0000{i}.tar", "nsamples": 6 + i} for i in range(2)]
    wids = json.dumps({"shardlist": entries}).encode()
    with http_server({**files, "/a/index.json": wids}, trouble) as url:
        index = ShardIndex.from_urls([f"{url}/a/index.json", f"{url}/b/00000.tar"], cache=cache)
        assert index.counts.tolist() == [6, 7, 6]
        assert len(list(make(index))) == 4
        with pytest.raises(DataError, match=r"none\.json: no such file"):
            ShardIndex.from_urls(f"{url}/a/none.json", cache=cache)


def test_denied_is_said_at_once(server: str, cache: ShardCache, trouble: Misbehaviour) -> None:
    trouble.forbidden = frozenset({"/a/sizes.json", "/a/00001.tar"})
    assert ShardIndex.from_urls(f"{server}/a/00000.tar", cache=cache).num_samples == 6
    with pytest.raises(ShardError, match=r"00001\.tar: access denied"):
        ShardIndex.from_urls(f"{server}/a/00001.tar", cache=cache)


def test_a_server_that_is_down_is_not_a_missing_file(cache: ShardCache) -> None:
    with pytest.raises(ShardError, match=r"a\.tar: gave up after 2 retries.*Connect"):
        ShardIndex.from_urls(f"http://127.0.0.1:{free_port()}/a.tar", cache=cache)


def test_pipes_run_when_asked_for(tmp_path: Path, cache: ShardCache) -> None:
    write_shards(tmp_path / "a", [6, 7])
    index = ShardIndex.from_urls(
        f"pipe:cat {tmp_path}/a/{{00000..00001}}.tar", allow_pipe=True, cache=cache
    )
    assert index.counts.tolist() == [6, 7]
    assert len(list(make(index))) == 3
    with pytest.raises(ShardError, match="status 3: oh no"):
        ShardIndex.from_urls("pipe:echo oh no >&2; exit 3", allow_pipe=True, cache=cache)


def test_the_output_of_a_pipe_is_kept_for_one_run(
    tmp_path: Path, cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept for ever, a command's first output stood for all later ones."""
    monkeypatch.delenv("CLIPKIT_VERSION_OF_RUN", raising=False)
    (path,) = write_shards(tmp_path / "data", [3])
    runs = tmp_path / "runs"
    url = f"pipe:echo x >> {runs}; cat {path}"

    def keys() -> list[str]:
        index = ShardIndex.from_urls(url, allow_pipe=True, cache=cache)
        reader = ShardReader(index)
        return [reader.read(number).key for number in range(index.num_samples)]

    assert keys() == keys() == ["000000", "000001", "000002"]
    assert len(runs.read_text().split()) == 1
    index = ShardIndex.from_urls(url, allow_pipe=True, cache=cache)
    write_shards(tmp_path / "data", [4], start=7)
    # A process that this one starts belongs to the run.
    with mp.get_context("fork").Pool(1) as pool:
        assert pool.apply(read_key, (index, cache)) == "000000"
    monkeypatch.delenv("CLIPKIT_VERSION_OF_RUN")  # as in another run
    assert keys() == ["000007", "000008", "000009", "000010"]
    assert len(runs.read_text().split()) == 2


def read_key(index: ShardIndex, cache: ShardCache) -> str:
    return ShardReader(index).read(0).key


def test_a_real_s3_server(files: dict[str, bytes], cache: ShardCache, s3_endpoint: str) -> None:
    client = pytest.importorskip("boto3").client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="pairs")
    for name, data in files.items():
        client.put_object(Bucket="pairs", Key=name[1:], Body=data)
    index = ShardIndex.from_urls("s3://pairs/*/*.tar", cache=cache)
    assert index.counts.tolist() == [6, 7, 6, 7]
    stream = make(index, tail="pad", num_workers=1)
    keys = {int(key) for batch in stream for key in batch.keys}
    assert keys == {*range(13), *range(100, 113)}
    with pytest.raises(ShardError, match="no shards match"):
        ShardIndex.from_urls("s3://pairs/none*.tar", cache=cache)


def test_a_size_below_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cache.max_bytes: expected 0 or more, got -1"):
        ShardCache(tmp_path, max_bytes=-1)
