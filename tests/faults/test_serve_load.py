"""The search server under damaged uploads, slow clients and hundreds of requests at a time."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter

import httpx
import psutil
import pytest
from PIL import Image

from tests.helpers.factories import image_bytes
from tests.helpers.images import encode, photo
from tests.helpers.served import write_served

SERVE = (sys.executable, "-m", "clipkit.cli.main", "search", "serve")
NUM_UPLOADS = 10_000
AT_ONCE = 8
MOST_SECONDS = 20.0
MOST_GROWTH_MB = 150
QUERY = {"parts": [{"text": "a red square"}, {"row": 3}]}
REFUSED = {413, 415, 422}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    collection = write_served(tmp_path_factory.mktemp("served"))
    process = subprocess.Popen(
        [*SERVE, str(collection), "--port", "0", "--device", "cpu", "--max-upload-mb", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = process.stdout.readline().strip().rpartition(": ")[2].rstrip("/")
    while httpx.get(f"{address}/api/status").json()["state"] == "loading":
        time.sleep(0.05)
    yield address, process
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def expected(server):
    return answer_of(server[0])


def answer_of(address):
    answer = httpx.post(f"{address}/api/search", json=QUERY, timeout=60)
    assert answer.status_code == 200
    return [(hit["row"], hit["score"]) for hit in answer.json()["results"]]


def memory_mb(process):
    return psutil.Process(process.pid).memory_info().rss / 1e6


def png_header(width, height):
    """A PNG of a few bytes that claims to have many pixels."""
    chunks = b""
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ):
        body = name + data
        chunks += struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunks


def bad_upload(rng, whole):
    """Return the bytes of an upload that is no usable image, of one of eight kinds."""
    kind = rng.randrange(8)
    content = bytearray(rng.choice(whole))
    if kind == 0:
        return bytes(content[: rng.randrange(1, 40)])  # truncated in its header
    if kind == 1:
        return rng.randbytes(rng.randrange(2000))
    if kind == 2:
        return b""
    if kind == 3:
        return png_header(rng.randrange(20_000, 2**31), rng.randrange(20_000, 2**31))
    if kind == 4:
        return rng.choice(
            [b"<svg onload='alert(1)'/>", b"%PDF-1.7", b"PK\3\4", b"%!PS", b"\0" * 99]
        )
    if kind == 5:  # another type's first bytes
        return rng.choice([b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0"]) + bytes(content[16:])
    if kind == 6:
        return bytes(1_000_001 + rng.randrange(1000))
    for _ in range(rng.randrange(20, 60)):  # damaged in its header
        content[rng.randrange(12, min(len(content), 120))] = rng.randrange(256)
    return bytes(content)


async def upload_all(address, uploads):
    """Return the statuses of uploads, and the seconds of the slowest."""
    statuses, slowest = Counter(), 0.0
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def upload():
            nonlocal slowest
            for content in uploads:
                started = time.monotonic()
                try:
                    answer = await client.post(f"{address}/api/uploads", content=content)
                except httpx.TransportError:  # the server closed the connection of a large body
                    statuses["closed"] += 1
                    continue
                slowest = max(slowest, time.monotonic() - started)
                statuses[answer.status_code] += 1
                if answer.status_code != 200:
                    assert list(answer.json()) == ["error"]

        await asyncio.gather(*(upload() for _ in range(AT_ONCE)))
    return statuses, slowest


@pytest.mark.timeout(1200)
def test_damaged_uploads_are_refused_in_time_and_memory_stays(server, expected):
    address, process = server
    rng = random.Random(0)
    kinds = ("JPEG", "PNG", "WEBP", "GIF")
    whole = [encode(photo(64, 48, seed), kind) for kind in kinds for seed in range(3)]
    first = (bad_upload(rng, whole) for _ in range(1000))
    before_statuses, _ = asyncio.run(upload_all(address, first))
    before = memory_mb(process)
    rest = (bad_upload(rng, whole) for _ in range(NUM_UPLOADS - 1000))
    statuses, slowest = asyncio.run(upload_all(address, rest))
    statuses += before_statuses
    print(statuses, f"slowest {slowest:.1f} s, {before:.0f} to {memory_mb(process):.0f} MB")
    # Some damage leaves a usable image: pixels of another colour, a smaller image.
    assert set(statuses) <= {200, "closed", *REFUSED}
    assert statuses["closed"] == 0
    assert statuses[200] < 0.1 * NUM_UPLOADS
    assert sum(statuses.values()) == NUM_UPLOADS
    assert slowest < MOST_SECONDS
    assert memory_mb(process) < before + MOST_GROWTH_MB
    assert answer_of(address) == expected


@pytest.mark.timeout(300)
def test_hundreds_of_requests_at_a_time(server, expected):
    """Every answer is right or says that the server is overloaded."""
    address, process = server
    before = memory_mb(process)

    async def run():
        limits = httpx.Limits(max_connections=300)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=120) as client:
            calls = []
            for number in range(600):
                if number % 3 == 0:
                    calls.append(client.post("/api/search", json=QUERY))
                elif number % 3 == 1:
                    calls.append(client.get(f"/api/images/{number % 23}/thumbnail"))
                else:
                    calls.append(client.post("/api/uploads", content=image_bytes(seed=number)))
            return await asyncio.gather(*calls)

    answers = asyncio.run(run())
    assert {answer.status_code for answer in answers} <= {200, 429, 503}
    searches = [answer for answer in answers[::3] if answer.status_code == 200]
    assert len(searches) >= 100
    for answer in searches:
        found = [(hit["row"], hit["score"]) for hit in answer.json()["results"]]
        assert [row for row, _ in found] == [row for row, _ in expected]
    for answer in answers:
        if answer.status_code != 200:
            assert int(answer.headers["retry-after"]) >= 1
            assert list(answer.json()) == ["error"]
    assert memory_mb(process) < before + MOST_GROWTH_MB
    assert answer_of(address) == expected


def test_slow_and_vanishing_clients_hold_nothing(server, expected):
    address, _ = server
    port = int(address.rpartition(":")[2])
    head = b"POST /api/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    for _ in range(50):  # more than there are places for uploads
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head + b"abc")
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for client in slow:
        client.sendall(b"GET / HTTP/1.1\r\nHost: loc")
    started = time.monotonic()
    assert answer_of(address) == expected
    assert httpx.post(f"{address}/api/uploads", content=image_bytes()).status_code == 200
    for client in slow:  # their headers are never complete
        client.settimeout(30)
        assert client.recv(100) == b""
        client.close()
    assert time.monotonic() - started < 30


def test_an_image_that_unpacks_to_too_many_pixels_is_refused_before_it_is_decoded(server):
    address, process = server
    out = io.BytesIO()
    Image.new("L", (10_000, 6_000)).save(out, "PNG", compress_level=9)
    assert len(out.getvalue()) < 1_000_000
    before = memory_mb(process)
    answer = httpx.post(f"{address}/api/uploads", content=out.getvalue())
    assert answer.status_code == 422
    assert "above the limit of 50000000" in answer.json()["error"]
    assert memory_mb(process) < before + 50
