"""Parallel clients of an HTTP server on loopback: one connection each, one request after the other.

They are as cheap as they can be in Python, because they share the cores with the server.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Load:
    """What clients measured.

    Args:
        requests_per_second: Answers per second of all clients.
        p50_ms: Median time of an answer.
        p99_ms: Time within which 99 of 100 answers came.
        failures: Number of answers with another status than 200.
        num_requests: Number of answers.
    """

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failures: int
    num_requests: int


def post(path: str, content: Any) -> bytes:
    """Return the bytes of a request with JSON."""
    body = json.dumps(content).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(path: str) -> bytes:
    """Return the bytes of a request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    """Send a request on a connection; returns status and body."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


async def load(
    port: int, num_clients: int, seconds: float, request: Callable[[int], bytes]
) -> Load:
    """Let clients ask for some seconds.

    Args:
        port: Port of the server on 127.0.0.1.
        num_clients: Number of clients.
        seconds: Duration; a tenth more comes before it and is not counted.
        request: Returns a request by its number.
    """
    times: list[float] = []
    failures, numbers = 0, iter(range(10**9))
    begin = time.perf_counter() + 0.1 * seconds

    async def client() -> None:
        nonlocal failures
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < begin + seconds:
            status, _ = await exchange(reader, writer, request(next(numbers)))
            if started >= begin:
                times.append(time.perf_counter() - started)
                failures += status != 200
        writer.close()

    await asyncio.gather(*(client() for _ in range(num_clients)))
    elapsed = time.perf_counter() - begin
    p50, p99 = (1e3 * np.percentile(times, [50, 99])).tolist()
    return Load(round(len(times) / elapsed, 1), round(p50, 1), round(p99, 1), failures, len(times))
