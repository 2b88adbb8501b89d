"""Pipelines of webdataset that a user wrote."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import webdataset

from clipkit.data import FaultOptions, TarSamples
from clipkit.errors import ConfigError, DataError, FaultBudgetExceeded, ShardError
from tests.helpers.factories import pair, write_shard, write_shards
from tests.helpers.web_streams import COUNTS, TOTAL, Handler, keys, make, own, train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, COUNTS)
    return folder


def own_decoded(urls: Sequence[str], seed: int, handler: Handler) -> Any:
    return own(urls, seed, handler).compose(webdataset.decode("pil"))


def own_tuples(urls: Sequence[str], seed: int, handler: Handler) -> Any:
    return own(urls, seed, handler).compose(webdataset.to_tuple("jpg", "txt"))


def own_full_disk(urls: Sequence[str], seed: int, handler: Handler) -> Any:
    def refuse(sample: dict[str, Any]) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device")

    return own(urls, seed, handler).compose(webdataset.map(refuse, handler=handler))


def own_failing(urls: Sequence[str], seed: int, handler: Handler) -> Any:
    def refuse(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__key__"].endswith("3"):
            raise ValueError("not this one")
        return sample

    return own(urls, seed, handler).compose(webdataset.map(refuse, handler=handler))


def own_strict(urls: Sequence[str], seed: int, handler: Handler) -> Any:
    return webdataset.DataPipeline(
        webdataset.SimpleShardList(urls, seed=seed),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        TarSamples(handler),
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_own_pipeline_is_split_by_webdataset(shards: Path, num_workers: int) -> None:
    options = {"pipeline": own, "num_workers": num_workers, "world_size": 2}
    first, second = (keys(make(shards, 16, rank=rank, **options)) for rank in (0, 1))
    assert len(set(first) | set(second)) == 16


def test_an_own_pipeline_without_shards_of_clipkit(shards: Path) -> None:
    def pipeline(urls: Sequence[str], seed: int, handler: Any) -> Any:
        assert not urls
        return own(sorted(map(str, shards.glob("*.tar"))), seed, handler)

    source = make(None, pipeline=pipeline)
    assert source.num_shards == 0
    assert sorted(keys(source)) == [f"{number:06d}" for number in range(TOTAL)]
    with pytest.raises(ConfigError, match="urls: expected shards"):
        make(None)


def test_errors_of_an_own_pipeline_are_counted(shards: Path, tmp_path: Path) -> None:
    source = make(shards, pipeline=own_failing, faults=FaultOptions(max_bad_fraction=1.0))
    list(source)
    assert source.counters()["bad_samples"] >= 5
    assert "ValueError: not this one" in source.state_dict()["bad_samples"][0][3]
    path = write_shards(tmp_path, [9, 9])[0]
    path.write_bytes(path.read_bytes()[:700])  # inside a member: elsewhere tarfile is silent
    with pytest.raises(FaultBudgetExceeded, match=r"1 bad shards.*unexpected end of data"):
        train(make(tmp_path, 16, pipeline=own), 8)


def test_damage_that_webdataset_does_not_see_is_named_by_the_own_reader(tmp_path: Path) -> None:
    path = write_shards(tmp_path, [9, 9])[1]
    data = path.read_bytes()
    at = data.index(b"000013.")
    path.write_bytes(data[:at] + b"X" + data[at + 1 :])
    silent = make(tmp_path, 16, pipeline=own)
    train(silent, 8)
    assert silent.counters()["bad_shards"] == 0
    with pytest.raises(FaultBudgetExceeded, match=r"1 bad shards.*00001\.tar: damaged header"):
        train(make(tmp_path, 16, pipeline=own_strict), 8)
    source = make(tmp_path, 16, pipeline=own_strict, faults=FaultOptions(max_bad_shards=1))
    train(source, 8)
    assert source.state_dict()["bad_shards"][0][0] == str(path)


def test_the_own_reader_gives_the_samples_of_shards(shards: Path) -> None:
    assert sorted(keys(make(shards, pipeline=own_strict))) == sorted(keys(make(shards)))
    stopped = TarSamples(lambda _: False)([{"url": "nosuch.tar"}, {"url": str(shards)}])
    assert list(stopped) == []
    with pytest.raises(ShardError, match=r"^nosuch\.tar: no such file"):
        list(TarSamples(webdataset.reraise_exception)([{"url": "nosuch.tar"}]))
    with pytest.raises(DataError, match=r"pipe:true: a pipe runs a command.*allow_pipe=True"):
        list(TarSamples(lambda _: True)([{"url": "pipe:true"}]))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "reader", [TarSamples, lambda handler: webdataset.tarfile_to_samples(handler=handler)]
)
def test_shards_of_which_none_can_be_read_end_the_run(tmp_path: Path, reader: Any) -> None:
    """Drawn with replacement, they would never end."""
    (tmp_path / "0.tar").write_bytes(b"no tar" * 200)

    def pipeline(urls: Sequence[str], seed: int, handler: Handler) -> Any:
        return webdataset.DataPipeline(webdataset.ResampledShards(urls), reader(handler))

    with pytest.raises(DataError, match=r"pipeline: 1000 errors without a sample.*the last one: "):
        list(make(tmp_path, 16, pipeline=pipeline, faults=FaultOptions(max_bad_shards=9)))


def test_a_full_disk_is_no_bad_sample(shards: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        list(make(shards, pipeline=own_full_disk))


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (own_decoded, r"member (jpg|cls|json|txt): expected bytes, got \w+; leave out decode"),
        (own_tuples, "expected samples, mappings with __key__"),
        (lambda *_: [], "no sample for a worker of rank 0"),
    ],
)
def test_an_own_pipeline_must_yield_bytes(
    shards: Path, pipeline: Callable[..., Any], message: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        list(make(shards, pipeline=pipeline))


def test_errors_of_an_own_pipeline_are_a_fraction_of_what_was_read(tmp_path: Path) -> None:
    """They have no ids: the same error counts again in every pass, as the samples read do."""
    write_shards(tmp_path, [10])  # 0003 fails in every pass
    source = make(tmp_path, 9, 1, pipeline=own_failing, faults=FaultOptions(max_bad_fraction=0.25))
    train(source, 90)
    assert source.counters()["bad_samples"] >= 9
    strict = make(tmp_path, 9, 1, pipeline=own_failing, faults=FaultOptions(max_bad_fraction=0.05))
    with pytest.raises(FaultBudgetExceeded, match="ValueError: not this one"):
        train(strict, 90)


def test_a_key_of_an_own_pipeline_that_is_no_text(tmp_path: Path) -> None:
    samples = [("caf\udce9", pair(0)), *((f"{number}", pair(number)) for number in range(1, 8))]
    write_shard(tmp_path / "0.tar", samples)
    expected = {"caf\\xe9", *map(str, range(1, 8))}
    assert set(keys(make(tmp_path, 8))) == set(keys(make(tmp_path, 8, pipeline=own))) == expected
