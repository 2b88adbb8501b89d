"""The next batch is copied while a step is computed, and the cursor does not know of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from clipkit.data import DevicePrefetcher, ShardIndex
from clipkit.data.device.prefetcher import CopyStream, CudaCopyStream, Finish
from clipkit.types import Batch, NegativeBatch, TeacherBatch
from tests.helpers.factories import write_shards
from tests.helpers.streams import ids, make
from tests.helpers.streams import train as train_plainly


class Recorded(CopyStream):
    """Notes when copies begin."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def copy(self, batch: Batch, finish: Finish) -> Batch:
        self.log.append(f"copy {batch.keys[0]}")
        return finish(batch.to("cpu"))


class Loader:
    """Batches a, b, c; ``fails_at`` raises in the place of one."""

    def __init__(self, names: str = "abc", fails_at: str = "") -> None:
        self.names, self.fails_at = names, fails_at

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Batch]:
        for name in self.names:
            if name == self.fails_at:
                raise OSError("disk is gone")
            yield batch(name)


def batch(name: str) -> Batch:
    zeros = torch.zeros(1, 2, dtype=torch.int64)
    return Batch(
        torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        zeros,
        zeros[0, :1],
        (name,),
        teacher=TeacherBatch(image=torch.zeros(1, 4)),
        negatives=NegativeBatch(tokens=zeros),
    )


def test_no_batch_waits_for_the_one_after_it():
    """A step begins as soon as its own batch is there, however long the loader needs for others."""
    log: list[str] = []

    class Slow(Loader):
        def __iter__(self) -> Iterator[Batch]:
            for one in super().__iter__():
                log.append(f"load {one.keys[0]}")
                yield one

    prefetcher = DevicePrefetcher(Slow(), "cuda", stream=Recorded(log))
    assert len(prefetcher) == 3
    log.extend(f"queue {one.keys[0]}" for one in prefetcher)
    assert log == [f"{what} {name}" for name in "abc" for what in ("load", "copy", "queue")]
    assert list(DevicePrefetcher(Loader(""), "cuda", stream=Recorded(log))) == []


def test_an_error_comes_in_the_place_of_its_batch():
    log: list[str] = []
    steps = iter(DevicePrefetcher(Loader(fails_at="c"), "cuda", stream=Recorded(log)))
    assert [next(steps).keys, next(steps).keys] == [("a",), ("b",)]
    with pytest.raises(OSError, match="disk is gone"):
        next(steps)
    with pytest.raises(OSError, match="disk is gone"):
        next(iter(DevicePrefetcher(Loader(fails_at="a"), "cuda", stream=Recorded(log))))


def test_batches_are_checked_in_host_memory_before_their_copy():
    log: list[str] = []

    def check(one: Batch) -> None:
        log.append(f"check {one.keys[0]}")
        if one.keys == ("b",):
            raise ValueError("wrong label")

    steps = iter(DevicePrefetcher(Loader(), "cuda", check, stream=Recorded(log)))
    assert next(steps).keys == ("a",)
    with pytest.raises(ValueError, match="wrong label"):
        next(steps)
    assert log == ["check a", "copy a", "check b"]


def test_without_cuda_each_batch_is_copied_when_it_is_asked_for():
    given: list[str] = []
    for one in DevicePrefetcher(Loader(), torch.device("cpu"), lambda b: given.append(b.keys[0])):
        assert given[-1] == one.keys[0]
        assert one.images.device.type == "cpu"
    on_meta = next(iter(DevicePrefetcher(Loader(), "meta")))
    assert {tensor.device.type for tensor in on_meta.tensors()} == {"meta"}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_that_was_only_copied_comes_again(tmp_path, num_workers):
    index = ShardIndex.from_urls([str(path) for path in write_shards(tmp_path, (9, 5))])
    expected = train_plainly(make(index), 6)
    for stop in range(1, 6):
        stream = make(index, num_workers=num_workers)
        assert train(stream, stop) == expected[:stop]
        again = make(index, num_workers=num_workers)
        again.load_state_dict(stream.state_dict())
        assert train(again, 6 - stop) == expected[stop:]
        assert again.state_dict() == end_state(index)


def end_state(index) -> dict[str, object]:
    stream = make(index)
    train_plainly(stream, 6)
    return stream.state_dict()


def train(stream, steps: int) -> list[list[int]]:
    seen: list[list[int]] = []
    while len(seen) < steps:
        for one in DevicePrefetcher(stream, "cuda", stream=Recorded([])):
            stream.commit(one)
            seen.append(ids(one))
            if len(seen) == steps:
                break
    return seen


def test_the_computation_waits_for_the_copy_and_keeps_its_memory(monkeypatch):
    calls: list[str] = []

    class Stream:
        def __init__(self, name: object) -> None:
            self.name = str(name)

        def record_event(self) -> str:
            calls.append(f"{self.name} records")
            return "event"

        def wait_event(self, event: str) -> None:
            calls.append(f"{self.name} waits for {event}")

    @contextmanager
    def use(stream: Stream) -> Iterator[None]:
        calls.append(f"on {stream.name}")
        yield
        calls.append(f"off {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("computation"))
    monkeypatch.setattr(torch.cuda, "stream", use)
    monkeypatch.setattr(Batch, "pin_memory", lambda self: calls.append("pin") or self)
    monkeypatch.setattr(Batch, "to", lambda self, *_, **options: calls.append(f"{options}") or self)
    kept: list[str] = []
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, s: kept.append(s.name))
    one = batch("a")
    stream = CudaCopyStream(torch.device("cuda", 0))
    assert stream.copy(one, lambda copied: calls.append("finish") or copied) is one
    assert calls == [
        *("pin", "on copies", "{'non_blocking': True}", "finish", "copies records", "off copies"),
        "computation waits for event",
    ]
    assert kept == ["computation"] * 5, "every tensor, also nested ones"
