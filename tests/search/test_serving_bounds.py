"""Bounds of requests: bodies, times, uploads at once; threads and batches behind them."""

import asyncio
import json
import threading
import time

import pytest

from clipkit.collection import Collection
from clipkit.collection.shard_tables import ROW_GROUP_ROWS
from clipkit.errors import DataError
from clipkit.search.records import read_records
from clipkit.search.serving import Limits, ServeOptions
from clipkit.search.serving.failures import HttpError
from clipkit.search.serving.images.decoding import thumbnail_size
from clipkit.search.serving.kept import LeastRecentlyUsed, SharedResults
from clipkit.search.serving.kept_records import KeptRecords
from clipkit.search.serving.middleware.bounds import BoundedRequests
from clipkit.search.serving.work import Batcher, DaemonThreads, WorkPool
from tests.helpers.collections import write_collection
from tests.helpers.factories import image_bytes

FOREVER = None
QUICK = Limits(upload_bytes=100, body_bytes=10, body_seconds=0.2, request_seconds=0.2)


def ask(app, parts, path="/api/search", headers=(), disconnects_after=None, limits=QUICK):
    """Send a request in parts; None waits forever. Returns status, headers, body."""

    async def run():
        sent = []
        done = asyncio.Event()

        async def receive():
            if parts:
                part = parts.pop(0)
                if part is FOREVER:
                    await asyncio.Event().wait()
                return {"type": "http.request", "body": part, "more_body": bool(parts)}
            if disconnects_after is None:
                await done.wait()
            else:
                await asyncio.sleep(disconnects_after)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": path, "method": "POST", "headers": list(headers)}
        await BoundedRequests(app, limits)(scope, receive, send)
        return sent

    sent = asyncio.run(run())
    if not sent:
        return None, {}, b""
    names = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], names, b"".join(part.get("body", b"") for part in sent[1:])


async def echo(scope, receive, send):
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def test_a_body_arrives_complete():
    assert ask(echo, [b"abc", b"def"])[::2] == (200, b"abcdef")


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/api/search", (b"a" * 11,)),
        ("/api/search", (b"a" * 6, b"a" * 6)),
        ("/api/uploads", (b"a" * 101,)),
    ],
)
def test_a_large_body_is_refused_whatever_the_client_declared(path, parts):
    status, headers, body = ask(echo, [*parts], path, [(b"content-length", b"1")])
    assert status == 413
    assert json.loads(body)["error"].startswith("body: expected at most 1")
    assert headers["connection"] == "close"


@pytest.mark.parametrize("length", [b"1000", b"9" * 5000, b"-1", b"x", "²".encode("latin-1")])
def test_a_declared_length_is_no_number_to_trust(length):
    status, _, _ = ask(echo, [b"a"], headers=[(b"content-length", length)])
    assert status == (413 if length.isdigit() and length.isascii() else 200)


def test_a_large_body_is_not_read_to_its_end():
    parts = [b"a" * 8] * 100
    assert ask(echo, parts)[0] == 413
    assert len(parts) == 97  # the third exceeds twice the limit


def test_a_slow_body_is_refused():
    status, _, body = ask(echo, [b"a", FOREVER])
    assert status == 408
    assert json.loads(body)["error"] == "body: expected all of it within 0.2 s"


def test_a_slow_answer_is_ended():
    ended = []

    async def slow(scope, receive, send):
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(True)

    status, headers, _ = ask(slow, [b""])
    assert (status, headers["retry-after"], ended) == (503, "5", [True])


def test_the_work_of_a_client_that_disconnects_is_ended():
    ended = []

    async def slow(scope, receive, send):
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(True)

    started = time.monotonic()
    limits = Limits(request_seconds=30)
    assert ask(slow, [b""], disconnects_after=0.05, limits=limits)[0] is None
    assert ended == [True]
    assert time.monotonic() - started < 5


def test_a_failure_of_the_server_is_one_line_without_details():
    async def broken(scope, receive, send):
        raise RuntimeError("secret")

    status, _, body = ask(broken, [b""])
    assert (status, b"secret" in body) == (500, False)


def test_uploads_at_once_are_bounded_and_places_are_given_back():
    limits = Limits(uploads_at_once=2, request_seconds=5)

    async def run():
        release = asyncio.Event()

        async def waiting(scope, receive, send):
            await release.wait()
            await echo(scope, receive, send)

        app = BoundedRequests(waiting, limits)
        statuses = []

        async def upload():
            parts = [{"type": "http.request", "body": b"a", "more_body": False}]

            async def receive():
                return parts.pop() if parts else await asyncio.Event().wait()

            async def send(message):
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            scope = {"type": "http", "path": "/api/uploads", "method": "POST", "headers": []}
            await app(scope, receive, send)

        first = [asyncio.create_task(upload()) for _ in range(2)]
        await asyncio.sleep(0)
        await upload()
        assert statuses == [429]
        first[0].cancel()  # the place of a request that fails is free again
        await asyncio.sleep(0.01)
        release.set()
        await upload()
        await first[1]
        assert sorted(statuses) == [200, 200, 429]

    asyncio.run(run())


def test_an_image_of_many_pixels_is_refused(start):
    client = start(ServeOptions(limits=Limits(upload_pixels=1000)))
    answer = client.post("/api/uploads", content=image_bytes(size=(40, 32)))
    assert answer.status_code == 422
    assert "40 x 32 pixels is above the limit of 1000" in answer.json()["error"]


def test_an_upload_that_is_too_large_in_bytes_is_refused(start):
    client = start(ServeOptions(limits=Limits(upload_bytes=500)))
    assert client.post("/api/uploads", content=image_bytes()).status_code == 413


def test_the_least_recently_used_upload_is_removed(start):
    client = start(ServeOptions(limits=Limits(kept_uploads=1)))
    names = [
        client.post("/api/uploads", content=image_bytes(color)).json()["upload"]
        for color in ("red", "blue")
    ]
    query = [{"parts": [{"upload": name}]} for name in names]
    assert client.post("/api/search", json=query[0]).status_code == 404
    assert client.post("/api/search", json=query[1]).status_code == 200


def test_a_pool_refuses_work_and_frees_the_places_of_cancelled_calls():
    async def run():
        pool, release = WorkPool("tests", 1, 1), threading.Event()
        first = asyncio.create_task(pool.run(release.wait, 10))
        second = asyncio.create_task(pool.run(int, "2"))
        await asyncio.sleep(0)
        with pytest.raises(HttpError, match="too many requests wait for tests"):
            await pool.run(int, "3")
        second.cancel()
        await asyncio.sleep(0)
        fourth = asyncio.create_task(pool.run(int, "4"))
        release.set()
        assert await first
        assert await fourth == 4
        pool.close()

    asyncio.run(run())


def test_waiting_items_are_one_batch_and_a_bad_one_fails_alone():
    calls, begun, release = [], threading.Event(), threading.Event()

    def squares(items):
        calls.append(list(items))
        begun.set()
        assert release.wait(10)
        if 0 in items:
            raise ValueError("zero")
        return [item**2 for item in items]

    async def run():
        batcher = Batcher("tests", squares, DaemonThreads(1, "tests"), 3, 10)
        first = asyncio.create_task(batcher.run(1))
        await asyncio.to_thread(begun.wait, 10)
        rest = [asyncio.create_task(batcher.run(item)) for item in (2, 3, 0, 4, 5)]
        await asyncio.sleep(0)
        rest[1].cancel()
        await asyncio.sleep(0)
        release.set()
        return [await first, *await asyncio.gather(*rest, return_exceptions=True)]

    found = asyncio.run(run())
    assert found[:2] == [1, 4]
    assert isinstance(found[2], asyncio.CancelledError)
    assert isinstance(found[3], ValueError)
    assert found[4:] == [16, 25]
    assert calls == [[1], [2, 0, 4], [2], [0], [4], [5]]


def test_a_batcher_refuses_items_above_its_bound():
    release = threading.Event()

    def wait(items):
        assert release.wait(10)
        return items

    async def run():
        batcher = Batcher("tests", wait, DaemonThreads(1, "tests"), 1, 2)
        tasks = [asyncio.create_task(batcher.run(item)) for item in range(4)]
        await asyncio.sleep(0.05)
        release.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(run())
    assert [item for item in found if isinstance(item, int)] == [0, 1]
    assert sum(isinstance(item, HttpError) for item in found) == 2


def test_shared_results_are_computed_once_and_again_after_a_failure():
    calls = []

    async def compute():
        calls.append(1)
        await asyncio.sleep(0.01)
        if len(calls) == 1:
            raise ValueError("first")
        return "result"

    async def run():
        shared = SharedResults(2)
        first = await asyncio.gather(
            *(shared.get("a", compute) for _ in range(3)), return_exceptions=True
        )
        impatient = asyncio.create_task(shared.get("a", compute))
        await asyncio.sleep(0)
        impatient.cancel()  # the computation goes through to its end
        await asyncio.sleep(0.05)
        return first, await shared.get("a", compute)

    first, later = asyncio.run(run())
    assert [str(error) for error in first] == ["first"] * 3
    assert (later, len(calls)) == ("result", 2)


def test_kept_values_are_bounded_by_their_sizes():
    kept = LeastRecentlyUsed(10, len)
    for key, value in (("a", "xxxx"), ("b", "xxxx"), ("a", "xx"), ("c", "xxxx")):
        kept.put(key, value)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == ("xx", "xxxx", "xxxx")
    kept.put("d", "x" * 11)
    kept.put("e", "x")
    assert [kept.get(key) for key in "abcde"] == [None, "xxxx", "xxxx", None, "x"]


@pytest.mark.parametrize(("wanted", "size"), [(1, 64), (64, 64), (65, 128), (9999, 1024)])
def test_thumbnails_have_few_sizes(wanted, size):
    assert thumbnail_size(wanted) == size


@pytest.mark.parametrize("most_bytes", [0, 10**9])
def test_kept_records_are_those_of_the_tables(tmp_path, most_bytes):
    """Over the parts of a table and over shards, whether parts are kept or not."""
    collection = Collection(write_collection(tmp_path, counts=(ROW_GROUP_ROWS + 10, 3)))
    records = KeptRecords(collection, most_bytes)
    rows = [ROW_GROUP_ROWS + 11, 0, ROW_GROUP_ROWS, ROW_GROUP_ROWS - 1, 0]
    columns = ["key", "captions", "label", "width_pixels", "height_pixels"]
    for _ in range(2):
        expected = read_records(collection, rows, columns)
        assert records.read(rows) == [
            {**record, "has_image": True, "has_sound": False} for record in expected
        ]
    with pytest.raises(DataError, match="expected 0 to"):
        records.read([ROW_GROUP_ROWS + 13])
