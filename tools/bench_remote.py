"""What a run fetches of remote shards, and its time to the first batch: HTTP and S3 on loopback.

    python tools/bench_remote.py WORK --output remote.json

Makes shards of JPEG noise in WORK and serves them from another process: over HTTP with a delay per
request and a limit per connection, and from moto's S3. One rank of two reads them, as on two
machines that share no cache: complete shards or parts, from shards alone, with index files, or as
``clipkit shards pack`` writes them, with counts too. The cache is empty at the start of each run.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing as mp
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

from clipkit.data import (
    EvalTransform,
    OpenClipTokenizer,
    PairStream,
    ShardCache,
    ShardIndex,
    ShardWriter,
)
from clipkit.data.packing.pack import SIZES_FILE

LAYOUTS = ("shards alone", "index files", "as packed")
PIECE = 2**16


def make_shards(folder: Path, num_shards: int, num_samples: int) -> None:
    """Write shards of images of some 100 KB, their index files and counts."""
    rng = np.random.default_rng(0)
    for shard in range(num_shards):
        with ShardWriter(folder / f"{shard:05d}.tar") as writer:
            for sample in range(num_samples):
                pixels = rng.integers(0, 256, (224, 320, 3), dtype=np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "JPEG", quality=90)
                key = f"{shard:05d}{sample:04d}"
                writer.write(key, {"jpg": file.getvalue(), "txt": b"noise " + key.encode()})
    counts = {f"{shard:05d}.tar": num_samples for shard in range(num_shards)}
    (folder / SIZES_FILE).write_text(json.dumps(counts))
    ShardIndex.from_urls(folder)


def is_served(name: str, layout: str) -> bool:
    """Return whether a layout of the bucket has a file."""
    allowed = {"shards alone": (".tar",), "index files": (".tar", ".npz")}
    return layout not in allowed or name.endswith(allowed[layout])


def serve(
    folder: Path, layout: str, delay: float, rate: float, port: Any, sent: Synchronized[int]
) -> None:
    """Serve a folder over HTTP, with a delay per request and a limit in bytes per second."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            time.sleep(delay)
            path = folder / unquote(self.path).strip("/")
            if not path.is_file() or not is_served(path.name, layout):
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = path.stat().st_size
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            start, end = (int(wanted[1]), int(wanted[2]) + 1) if wanted else (0, size)
            self.send_response(206 if wanted else 200)
            self.send_header("ETag", f'"{size}"')
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - start))
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.end_headers()
            if body:
                self.send(path, start, end)

        def send(self, path: Path, start: int, end: int) -> None:
            with path.open("rb") as file:
                file.seek(start)
                for at in range(start, end, PIECE):
                    piece = file.read(min(PIECE, end - at))
                    self.wfile.write(piece)
                    with sent.get_lock():
                        sent.value += len(piece)
                    time.sleep(len(piece) / rate)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


@contextmanager
def http(folder: Path, layout: str, args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Yield the URL of a server in another process, and its counter of bytes."""
    context = mp.get_context("fork")
    port, sent = context.Queue(), context.Value("q", 0)
    arguments = (folder, layout, args.delay, args.rate * 1e6, port, sent)
    process = context.Process(target=serve, args=arguments, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get(timeout=30)}", lambda: sent.value
    finally:
        process.terminate()


def serve_s3(folder: Path, layout: str, port: Any, sent: Synchronized[int]) -> None:
    """Serve a folder from moto's S3, and count the bytes of its answers."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication
    from moto.server import ThreadedMotoServer

    answer = DomainDispatcherApplication.__call__

    def counted(self: Any, environ: Any, start_response: Any) -> Iterator[bytes]:
        for piece in answer(self, environ, start_response):
            with sent.get_lock():
                sent.value += len(piece)
            yield piece

    DomainDispatcherApplication.__call__ = counted
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, number = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{number}")
    client.create_bucket(Bucket="bench")
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_served(path.name, layout):
            body = path.read_bytes()
            client.put_object(Bucket="bench", Key=path.name, Body=body, ACL="public-read")
    sent.value = 0
    port.put(number)
    time.sleep(3600)


@contextmanager
def s3(folder: Path, layout: str, args: argparse.Namespace) -> Iterator[tuple[str, Any]]:  # noqa: ARG001
    """Yield the URL of a bucket in another process, and its counter of bytes."""
    context = mp.get_context("fork")
    port, sent = context.Queue(), context.Value("q", 0)
    process = context.Process(target=serve_s3, args=(folder, layout, port, sent), daemon=True)
    process.start()
    try:
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port.get(timeout=120)}"
        from s3fs import S3FileSystem

        S3FileSystem.clear_instance_cache()
        yield "s3://bench", lambda: sent.value
    finally:
        process.terminate()


def run(url: str, sent: Any, work: Path, ranges: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Read a first batch, and an epoch, as rank 0 of 2."""
    shutil.rmtree(work / "cache", ignore_errors=True)
    start = time.perf_counter()
    cache = ShardCache(work / "cache", ranges=ranges)
    pattern = f"{url}/{{00000..{args.shards - 1:05d}}}.tar"
    stream = PairStream(
        ShardIndex.from_urls(pattern, cache=cache),
        tokenizer=OpenClipTokenizer("ViT-B-32"),
        image_transform=EvalTransform(64),
        batch_size=args.batch_size,
        num_workers=args.workers,
        rank=0,
        world_size=2,
    )
    indexed = time.perf_counter() - start
    batches = iter(stream)
    next(batches)
    result = {"index_s": indexed, "first_batch_s": time.perf_counter() - start}
    result["first_batch_bytes"] = sent()
    for _ in batches:
        pass
    files = [path for path in (work / "cache").glob("??/*") if path.suffix != ".lock"]
    stored = sum(path.stat().st_blocks * 512 for path in files)
    return {
        **result,
        "epoch_s": time.perf_counter() - start,
        "epoch_bytes": sent(),
        "cache_bytes": stored,
    }


def main() -> None:
    """Run all combinations, print and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--samples", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds per request")
    parser.add_argument("--rate", type=float, default=25, help="MB/s per connection")
    args = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    folder = args.work / "shards"
    if not folder.exists():
        make_shards(folder, args.shards, args.samples)
    total = sum(path.stat().st_size for path in folder.glob("*.tar"))
    rows = []
    for name, server in (("HTTP", http), ("S3", s3)):
        for layout in LAYOUTS:
            for ranges in (False, True):
                with server(folder, layout, args) as (url, sent):
                    result = run(url, sent, args.work, ranges, args)
                rows.append({"server": name, "bucket": layout, "ranges": ranges, **result})
                print(json.dumps(rows[-1]), flush=True)
    if args.output is not None:
        args.output.write_text(json.dumps({"shard_bytes": total, "runs": rows}, indent=1))


if __name__ == "__main__":
    main()
