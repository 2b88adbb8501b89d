"""Requests per second of ``clipkit search serve``, its start, and the time of a page load.

    python tools/bench_serve.py WORK --output serve.json

Writes collections of random vectors of 512 components to WORK (no images), starts a server process
for each, and lets clients ask from this process, which shares the cores: by rows of the collection
(no model), with a filter, by texts that are all different (the text tower of ViT-B-32, with random
weights), and for the status; one client alone, then many at a time. With --index, it searches by an
index; a collection of WORK/rows-N is used again.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from http_load import exchange, get, load, post
from simulated_collection import write_simulated

from clipkit.collection import Collection
from clipkit.models import from_open_clip, save_encoder
from clipkit.search.index import BuildOptions, build_index, index_factory

MODEL = "ViT-B-32"
WIDTH = 512
SERVE = (sys.executable, "-m", "clipkit.cli.main", "search", "serve")
WORDS = ("red", "green", "blue", "small", "large", "old", "dog", "cat", "car", "tree", "sea")


def start_server(collection: Path) -> tuple[subprocess.Popen[str], int, float]:
    """Start a server on a free port; returns process, port and the seconds until the port opens."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [*SERVE, str(collection), "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    found = re.search(r":(\d+)/", process.stdout.readline())
    assert found, "the server did not start"
    return process, int(found[1]), time.perf_counter() - started


async def wait_until_ready(port: int) -> None:
    """Wait until the collection is loaded."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        _, body = await exchange(reader, writer, get("/api/status"))
        state = json.loads(body)["state"]
        assert state != "failed", body
        if state == "ready":
            writer.close()
            return
        await asyncio.sleep(0.05)


async def page_load(port: int, repetitions: int = 20) -> dict[str, float]:
    """Return the median ms and the bytes of the page: HTML, styles, scripts, status."""
    times, size = [], 0
    for _ in range(repetitions):
        started = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        _, html = await exchange(reader, writer, get("/"))
        names = {"/api/status", *re.findall(r'"(/static/[\w.-]+)"', html.decode())}
        done: set[str] = set()
        size = len(html)
        while names - done:
            name = min(names - done)
            _, body = await exchange(reader, writer, get(name))
            size += len(body)
            done.add(name)
            if name.endswith(".js"):
                names |= {
                    f"/static/{n}" for n in re.findall(r'from "\./([\w-]+\.js)"', body.decode())
                }
        writer.close()
        times.append(time.perf_counter() - started)
    return {
        "ms": round(float(np.median(times)) * 1e3, 1),
        "bytes": size,
        "requests": len(names) + 1,
    }


def text_of(number: int) -> str:
    """Return a text that is different for each number."""
    words = [WORDS[number // len(WORDS) ** place % len(WORDS)] for place in range(3)]
    return f"a photo of a {' '.join(words)}, number {number}"


async def measure(port: int, num_rows: int, num_clients: int, seconds: float) -> dict[str, Any]:
    """Measure each kind of request."""
    rng = np.random.default_rng(2)
    rows = rng.integers(0, num_rows, 100_000).tolist()
    filters = [{"column": "label", "operator": "=", "value": 7}]
    kinds = {
        "rows": lambda n: post("/api/search", {"parts": [{"row": rows[n]}]}),
        "rows, filtered": lambda n: post(
            "/api/search", {"parts": [{"row": rows[n]}], "filters": filters}
        ),
        "texts": lambda n: post("/api/search", {"parts": [{"text": text_of(n)}]}),
        "status": lambda _: get("/api/status"),
    }
    found: dict[str, Any] = {}
    for name, request in kinds.items():
        for clients in (1, num_clients):
            result = await load(port, clients, seconds, request)
            found[f"{name}, clients: {clients}"] = dataclasses.asdict(result)
            print(f"{name}, clients: {clients}", dataclasses.asdict(result), flush=True)
    return found


def serve_and_measure(collection: Path, num_rows: int, args: argparse.Namespace) -> dict[str, Any]:
    """Start a server, measure it and stop it."""
    process, port, opened = start_server(collection)
    try:
        started = time.perf_counter()
        asyncio.run(wait_until_ready(port))
        ready = opened + time.perf_counter() - started
        page = asyncio.run(page_load(port))
        requests = asyncio.run(measure(port, num_rows, args.clients, args.seconds))
        memory = psutil.Process(process.pid).memory_full_info()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return {
        "rows": num_rows,
        "seconds to the open port": round(opened, 1),
        "seconds to ready": round(ready, 1),
        "page load": page,
        "requests": requests,
        "own memory, MB": round(memory.uss / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e5, 1e6])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--index", action="store_true", help="search by an index, built if missing")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    encoder = from_open_clip(MODEL).eval()
    if not (args.work / "model").exists():
        save_encoder(encoder, args.work / "model")
    results = []
    for rows in map(int, args.rows):
        collection = args.work / f"rows-{rows}"
        write_simulated(collection, rows, WIDTH, str((args.work / "model").resolve()), "")
        if args.index and not (collection / "index").exists():
            build_index(Collection(collection), BuildOptions(index_factory(rows, WIDTH)))
        results.append(serve_and_measure(collection, rows, args))
    report = {"model": MODEL, "width": WIDTH, "cores": os.cpu_count(), "results": results}
    text = json.dumps(report, indent=2)
    print(text)
    if args.output is not None:
        args.output.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
