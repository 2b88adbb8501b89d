"""Shards that webdataset reads: the same samples, split, shuffled, counted and never silent."""

from __future__ import annotations

import errno
import io
import json
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from torchvision.transforms import v2

from clipkit.data import (
    BatchSizeStage,
    EvalTransform,
    FaultOptions,
    Group,
    OrderOptions,
    PairSource,
    PairStream,
    SampleOptions,
    ShardCache,
    ShardIndex,
    TeacherEmbeddings,
    TrainTransform,
    WebDatasetShards,
    WebDatasetSource,
)
from clipkit.errors import CheckpointError, ConfigError, DataError, FaultBudgetExceeded, ShardError
from clipkit.types import Batch
from clipkit.when import When
from tests.helpers.factories import image_bytes, pair, write_shard, write_shards
from tests.helpers.fakes import ByteTokenizer
from tests.helpers.servers import Misbehaviour, http_server

COUNTS = [7, 13, 5, 20, 16, 3]
TOTAL = sum(COUNTS)
READ = {"resampled", "pipeline", "counts", "allow_pipe", "cache"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, COUNTS)
    return folder


def make(urls: Any, num_samples: int = TOTAL, batch_size: int = 4, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "tokenizer": ByteTokenizer(),
        "image_transform": EvalTransform(16),
        "seed": 3,
    }
    read = {name: options.pop(name) for name in READ & options.keys()}
    shards = WebDatasetShards(urls, num_samples, **read)
    return WebDatasetSource(shards, batch_size=batch_size, **{**defaults, **options})


def train(source: PairSource, steps: int) -> list[Batch]:
    """Go through ``steps`` batches over epochs, committing each."""
    seen: list[Batch] = []
    while len(seen) < steps:
        for batch in source:
            source.commit(batch)
            seen.append(batch)
            if len(seen) == steps:
                break
    return seen


def keys(batches: Iterable[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def test_tensors_are_those_of_a_pair_stream(tmp_path: Path) -> None:
    formats = ["JPEG", "PNG", "WEBP", "GIF"]
    samples = []
    for number in range(16):
        image = image_bytes("blue", (30 + number, 21), number, formats[number % 4])
        members = {**pair(number), formats[number % 4].lower(): image}
        members.pop("jpg" if number % 4 else "webp", None)
        samples.append((f"{number:04d}", members))
    write_shard(tmp_path / "0.tar", samples[:7])
    write_shard(tmp_path / "1.tar", samples[7:])
    options = SampleOptions(fields=[Group("json:color")], num_threads=2)
    exact = PairStream(
        ShardIndex.from_urls(tmp_path), tokenizer=ByteTokenizer(), batch_size=1,
        image_transform=EvalTransform(16), samples=options,
    )  # fmt: skip
    expected = {batch.keys[0]: batch for batch in exact}
    found = list(make(tmp_path, 16, batch_size=1, samples=options))
    assert sorted(keys(found)) == sorted(expected)
    for batch in found:
        other = expected[batch.keys[0]]
        assert batch.captions == other.captions
        for name in ("images", "tokens", "labels", "groups"):
            assert torch.equal(getattr(batch, name), getattr(other, name)), name


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_and_workers_read_disjoint_samples(shards: Path, num_workers: int) -> None:
    ranks = [make(shards, 32, rank=rank, world_size=2, num_workers=num_workers) for rank in (0, 1)]
    assert [len(rank) for rank in ranks] == [4, 4]
    # the largest share of a worker is below what all take, so that no second pass begins
    first, second = (keys(list(rank)[:2]) for rank in ranks)
    assert len(first) == len(set(first)) == 8
    assert not set(first) & set(second)


def test_a_pass_holds_every_sample_once(shards: Path) -> None:
    source = make(shards)
    first, second = (keys(train(source, TOTAL // 4)) for _ in range(2))
    assert sorted(first) == sorted(second) == sorted({f"{number:06d}" for number in range(TOTAL)})
    assert first != second


def test_all_ranks_have_the_same_number_of_steps(tmp_path: Path) -> None:
    write_shards(tmp_path, [2, 30, 3])  # the ranks have shares of very different size
    for epoch_steps in ([5] * 3, [5] * 3):
        ranks = [make(tmp_path, 63, rank=rank, world_size=3) for rank in range(3)]
        assert [sum(1 for _ in rank) for rank in ranks] == epoch_steps
    assert make(tmp_path, 63, world_size=3, rank=0).num_samples == 60


def test_fewer_shards_than_workers_run_no_worker_dry(tmp_path: Path) -> None:
    write_shards(tmp_path, [9])
    ranks = [make(tmp_path, 16, rank=rank, world_size=2, num_workers=2) for rank in (0, 1)]
    assert [len(keys(list(rank))) for rank in ranks] == [8, 8]


def test_the_state_counts_and_a_resume_shuffles_anew(shards: Path) -> None:
    source = make(shards)
    before = train(source, 20)
    state = source.state_dict()
    assert state["exact"] is False
    assert state["samples_seen"] == 80
    assert (state["epoch"], state["position"]) == (1, 80 - TOTAL)
    assert source.counters()["samples_seen"] == 80
    resumed = make(shards)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    after = train(resumed, 12)
    assert resumed.state_dict()["samples_seen"] == 128
    assert keys(after) != keys(before)[:48]
    again = make(shards)
    again.load_state_dict(state)
    assert keys(train(again, 12)) == keys(after)


def test_a_resume_on_other_ranks_keeps_place_and_epoch(shards: Path) -> None:
    source = make(shards, 61, batch_size=6)
    assert source.num_samples == 60
    train(source, 3)
    resumed = make(shards, 61, batch_size=4, rank=1, world_size=2)
    resumed.load_state_dict(source.state_dict())
    assert (resumed.num_samples, resumed.state_dict()["position"]) == (60, 18)
    assert len(list(resumed)) == -(-42 // 8)


def test_options_of_the_checkpoint_win_loudly(
    shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resumed = make(shards, 40, seed=9)
    resumed.load_state_dict(make(shards).state_dict())
    assert "seed: using 3 from the checkpoint, ignoring 9" in caplog.text
    assert f"num_samples: using {TOTAL} from the checkpoint, ignoring 40" in caplog.text


def test_states_of_the_other_source_are_refused(shards: Path) -> None:
    exact = PairStream(ShardIndex.from_urls(shards), tokenizer=ByteTokenizer(), batch_size=4)
    with pytest.raises(CheckpointError, match=r"of a WebDatasetSource \(exact: false\)"):
        exact.load_state_dict(make(shards).state_dict())
    with pytest.raises(CheckpointError, match="of a PairStream, whose exact order"):
        make(shards).load_state_dict(exact.state_dict())
    state = make(shards).state_dict()
    del state["samples_seen"]
    with pytest.raises(CheckpointError, match="incomplete, samples_seen missing"):
        make(shards).load_state_dict(state)


def test_an_order_depends_on_the_seed(shards: Path) -> None:
    assert keys(make(shards)) == keys(make(shards))
    assert keys(make(shards)) != keys(make(shards, seed=4))


def test_shards_may_be_drawn_with_replacement(shards: Path) -> None:
    order = OrderOptions(shuffle_window=10)
    ranks = [
        make(shards, 6 * TOTAL, rank=rank, world_size=2, resampled=True, order=order)
        for rank in (0, 1)
    ]
    first, second = (keys(list(rank)) for rank in ranks)
    assert first != second
    assert len(set(first) | set(second)) > TOTAL // 2
    assert len(set(first)) < len(first)  # more than a pass


def test_batches_may_grow(shards: Path) -> None:
    stages = [BatchSizeStage(2, When(samples=8))]
    source = make(shards, 24, order=OrderOptions(batch_size_stages=stages))
    assert [len(batch) for batch in source] == [2] * 4 + [4] * 4


# What cannot be read


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


def test_errors_of_an_own_pipeline_are_a_fraction_of_what_was_read(tmp_path: Path) -> None:
    """They have no ids: the same error counts again in every pass, as the samples read do."""
    write_shards(tmp_path, [10])  # 0003 fails in every pass
    source = make(tmp_path, 9, 1, pipeline=own_failing, faults=FaultOptions(max_bad_fraction=0.25))
    train(source, 90)
    assert source.counters()["bad_samples"] >= 9
    strict = make(tmp_path, 9, 1, pipeline=own_failing, faults=FaultOptions(max_bad_fraction=0.05))
    with pytest.raises(FaultBudgetExceeded, match="ValueError: not this one"):
        train(strict, 90)


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


# Pipelines of the user's own


def own(urls: Sequence[str], seed: int, handler: Callable[[Exception], bool]) -> Any:
    return webdataset.DataPipeline(
        webdataset.SimpleShardList(urls, seed=seed),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(handler=handler),
    )


def own_decoded(urls: Sequence[str], seed: int, handler: Callable[[Exception], bool]) -> Any:
    return own(urls, seed, handler).compose(webdataset.decode("pil"))


def own_tuples(urls: Sequence[str], seed: int, handler: Callable[[Exception], bool]) -> Any:
    return own(urls, seed, handler).compose(webdataset.to_tuple("jpg", "txt"))


def own_full_disk(urls: Sequence[str], seed: int, handler: Callable[[Exception], bool]) -> Any:
    def refuse(sample: dict[str, Any]) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device")

    return own(urls, seed, handler).compose(webdataset.map(refuse, handler=handler))


def own_failing(urls: Sequence[str], seed: int, handler: Callable[[Exception], bool]) -> Any:
    def refuse(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__key__"].endswith("3"):
            raise ValueError("not this one")
        return sample

    return own(urls, seed, handler).compose(webdataset.map(refuse, handler=handler))


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


def test_a_key_of_an_own_pipeline_that_is_no_text(tmp_path: Path) -> None:
    samples = [("caf\udce9", pair(0)), *((f"{number}", pair(number)) for number in range(1, 8))]
    write_shard(tmp_path / "0.tar", samples)
    expected = {"caf\\xe9", *map(str, range(1, 8))}
    assert set(keys(make(tmp_path, 8))) == set(keys(make(tmp_path, 8, pipeline=own))) == expected


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": OrderOptions(shuffle=False)}, "webdataset reads for training"),
        ({"order": OrderOptions(tail="even")}, "webdataset reads for training"),
        ({"order": OrderOptions(length_bucket_batches=4)}, "needs an exact order"),
        ({"num_samples": 3}, "batch_size: expected at most the 3 samples"),
        ({"pipeline": own, "resampled": True}, "resampled: has no effect on a pipeline"),
        (
            {"pipeline": own, "order": OrderOptions(shuffle_window=9)},
            r"order\.shuffle_window: has no effect on a pipeline",
        ),
        ({"num_workers": -1}, "num_workers: expected at least 0"),
        (
            {
                "samples": SampleOptions(num_threads=2),
                "image_transform": TrainTransform(16, augmentations=[v2.RandomInvert()]),
            },
            "num_threads: expected 1 with augmentations of torchvision",
        ),
    ],
)
def test_options_that_cannot_work(shards: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(shards, **options)


def test_captions_are_read_before_the_run(shards: Path) -> None:
    facts = make(shards).read_captions(ByteTokenizer(), 12)
    assert len(facts.lengths) == 12
    assert make(shards, pipeline=own).read_captions(ByteTokenizer()).lengths == []


def test_an_older_iteration_is_refused(shards: Path) -> None:
    source = make(shards)
    first = iter(source)
    next(first)
    next(iter(source))
    with pytest.raises(ConfigError, match="a newer iteration has begun"):
        next(first)
    assert not source.is_exact
