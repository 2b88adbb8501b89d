"""What webdataset's source cannot read is named, counted and never silent."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipkit.data import (
    FaultOptions,
    OrderOptions,
    SampleOptions,
    ShardCache,
    TeacherEmbeddings,
)
from clipkit.errors import DataError, FaultBudgetExceeded, ShardError
from tests.helpers.factories import pair, write_shard, write_shards
from tests.helpers.servers import Misbehaviour, http_server
from tests.helpers.web_streams import COUNTS, TOTAL, keys, make, own, train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, COUNTS)
    return folder


def test_a_torn_tar_is_named(tmp_path: Path) -> None:
    path = write_shards(tmp_path, [9, 9])[1]
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FaultBudgetExceeded, match=r"00001\.tar: truncated: the file ends at byte"):
        train(make(tmp_path, 16), 8)
    source = make(tmp_path, 16, faults=FaultOptions(max_bad_shards=1, log=tmp_path / "bad.jsonl"))
    train(source, 12)
    assert source.counters()["bad_shards"] == 1
    assert "00001.tar: truncated" in (tmp_path / "bad.jsonl").read_text()
    assert source.state_dict()["bad_shards"][0][0] == str(path)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_shard_shorter_than_its_count_is_a_fault(tmp_path: Path, num_workers: int) -> None:
    write_shards(tmp_path, [9, 9])
    (tmp_path / "sizes.json").write_text('{"00000.tar": 9, "00001.tar": 12}')
    with pytest.raises(FaultBudgetExceeded, match=r"00001\.tar: expected 12 samples.*got 9"):
        train(make(tmp_path, 16, num_workers=num_workers), 16)
    (tmp_path / "sizes.json").rename(tmp_path / "counts.json")
    with pytest.raises(FaultBudgetExceeded, match=r"00001\.tar: expected 12 samples.*got 9"):
        train(make(tmp_path, 16, counts=tmp_path / "counts.json"), 16)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [9, 9])
    with pytest.raises(FaultBudgetExceeded, match=r"00002\.tar: no such file"):
        train(make(str(tmp_path / "{00000..00002}.tar"), 16), 8)
    (tmp_path / "sizes.json").write_text('{"00000.tar": 9, "00001.tar": 9, "00002.tar": 4}')
    with pytest.raises(ShardError, match=r"00002\.tar: no such file, but the counts"):
        make(tmp_path, 16)


def test_no_shard_that_can_be_read_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"no tar" * 200)
    source = make(tmp_path, 16, faults=FaultOptions(max_bad_shards=9))
    with pytest.raises(DataError, match=r"16 without a sample between them.*expected a tar file"):
        list(source)


def test_bad_samples_are_left_out_and_counted(tmp_path: Path) -> None:
    samples = [(f"{number:04d}", pair(number)) for number in range(20)]
    samples[3][1]["jpg"] = b"no image"
    samples[8][1].pop("txt")
    write_shard(tmp_path / "0.tar", samples)
    source = make(tmp_path, 18, faults=FaultOptions(max_bad_fraction=0.2))
    for _ in range(3):  # several passes over the same samples
        found = keys(train(source, 4))
        assert not {"0003", "0008"} & set(found)
    assert source.counters()["bad_samples"] == 2
    names = {(shard, key) for shard, _, key, _ in source.state_dict()["bad_samples"]}
    assert names == {(str(tmp_path / "0.tar"), key) for key in ("0003", "0008")}
    with pytest.raises(FaultBudgetExceeded, match="2 bad samples of 18, allowed 1"):
        train(make(tmp_path, 18), 12)


def write_seldom_bad(folder: Path) -> None:
    """Write 40 samples, of which every tenth is bad."""
    samples = [(f"{number:04d}", pair(number)) for number in range(40)]
    for number in range(0, 40, 10):
        samples[number][1]["jpg"] = b"no image"
    write_shard(folder / "0.tar", samples)


def test_bad_samples_are_a_fraction_of_what_was_read(tmp_path: Path) -> None:
    """The data are ten times as many as the declared epoch: one bad sample in ten is allowed."""
    write_seldom_bad(tmp_path)
    faults = FaultOptions(max_bad_fraction=0.25)
    order = OrderOptions(shuffle_window=1)
    source = make(tmp_path, 4, faults=faults, order=order)
    train(source, 20)
    assert source.counters()["bad_samples"] == 4
    resumed = make(tmp_path, 4, faults=faults, order=order)
    resumed.load_state_dict(source.state_dict())
    train(resumed, 8)
    with pytest.raises(FaultBudgetExceeded, match=r"bad samples of \d+, allowed 1"):
        train(make(tmp_path, 4, faults=FaultOptions(max_bad_fraction=0.05), order=order), 20)


def test_nothing_but_bad_samples_ends_the_run(tmp_path: Path) -> None:
    samples = [(f"{number:04d}", {**pair(number), "jpg": b"-"}) for number in range(20)]
    write_shard(tmp_path / "0.tar", samples)
    with pytest.raises(DataError, match="none of the first 8 samples"):
        make(tmp_path, 16)
    source = make(tmp_path, 300, pipeline=own, faults=FaultOptions(max_bad_fraction=1.0))
    with pytest.raises(DataError, match="no usable sample among"):
        list(source)


def test_commands_need_permission(tmp_path: Path) -> None:
    path = write_shards(tmp_path, [9])[0]
    with pytest.raises(DataError, match=r"a pipe runs a command.*allow_pipe"):
        make(f"pipe:cat {path}")
    batches = list(make(f"pipe:cat {path}", 8, allow_pipe=True))
    assert len(set(keys(batches))) == 8
    with pytest.raises(FaultBudgetExceeded, match="the command ended with status 3"):
        list(make(f"pipe:cat {path}; exit 3", 16, allow_pipe=True))


def test_urls_are_read_without_copies(shards: Path, tmp_path: Path) -> None:
    files = {f"/{path.name}": path.read_bytes() for path in sorted(shards.glob("*.tar"))}
    files["/sizes.json"] = json.dumps({f"{n:05d}.tar": c for n, c in enumerate(COUNTS)}).encode()
    cache = ShardCache(tmp_path / "cache", retries=1, backoff_seconds=0.01)
    trouble = Misbehaviour(num_cuts=1, cut_after_bytes=1000)
    with http_server(files, trouble) as url:
        urls = f"{url}/{{00000..00005}}.tar"
        one_pass = train(make(urls, num_workers=1, cache=cache), TOTAL // 4)
        assert sorted(keys(one_pass)) == [f"{n:06d}" for n in range(TOTAL)]
        del files["/00003.tar"]
        with pytest.raises(FaultBudgetExceeded, match=r"/00003\.tar: no such file"):
            train(make(urls, cache=cache), TOTAL // 4)
    assert not (tmp_path / "cache").exists()


def test_a_server_that_breaks_off_is_a_bad_shard(shards: Path, tmp_path: Path) -> None:
    files = {f"/{path.name}": path.read_bytes() for path in sorted(shards.glob("*.tar"))}
    cache = ShardCache(tmp_path / "cache", retries=1, backoff_seconds=0.01)
    trouble = Misbehaviour(chunked=True)
    with http_server(files, trouble) as url:
        urls = f"{url}/{{00000..00005}}.tar"
        assert len(set(keys(train(make(urls, cache=cache), TOTAL // 4)))) == TOTAL
        trouble.cut_after_bytes, trouble.num_cuts = 1000, 10**6
        with pytest.raises(FaultBudgetExceeded, match=r"1 bad shards.*gave up after 1 retries"):
            train(make(urls, cache=cache), TOTAL // 4)


def test_embeddings_of_another_size_are_a_fault(tmp_path: Path) -> None:
    samples = []
    for number in range(12):
        out = io.BytesIO()
        np.save(out, np.ones(3 if number == 7 else 4, dtype=np.float32))
        stored = {"image.npy": out.getvalue(), "text.npy": out.getvalue()}
        samples.append((f"{number:04d}", {**pair(number), **stored}))
    write_shard(tmp_path / "0.tar", samples)
    options = SampleOptions(fields=[TeacherEmbeddings("image.npy", "text.npy")])
    order = OrderOptions(shuffle_window=1)
    faults = FaultOptions(max_bad_fraction=0.2)
    source = make(tmp_path, 12, samples=options, order=order, faults=faults)
    train(source, 3)
    assert [key for _, _, key, _ in source.state_dict()["bad_samples"]] == ["0007"]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """A member .pyd would run code in a decoder of webdataset's."""

    class Harmful:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    samples = [
        (f"{number:04d}", {**pair(number), "pyd": pickle.dumps(Harmful())}) for number in range(8)
    ]
    write_shard(tmp_path / "0.tar", samples)
    assert len(keys(make(tmp_path, 8))) == 8
    assert not (tmp_path / "ran").exists()
