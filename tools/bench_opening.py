"""Seconds and bytes to the first batch, clipkit against open_clip's loader: local, HTTP and S3.

    python tools/photo_shards.py WORK/shards --photos 4000
    python tools/bench_opening.py WORK --peer PEER          # PEER as for bench_loader.py

The HTTP server is that of bench_remote.py, with its delay and limit; it and moto's S3 count the
bytes that they send, until the loader is closed. Imports are not counted, and
clipkit's cache is empty each time. open_clip reads HTTP through ``curl``, also the objects of
moto's S3, which clipkit reads by S3's protocol.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_loader import LOADERS, run_child
from bench_remote import http, s3


def measure(
    work: Path,
    shards: str,
    options: argparse.Namespace,
    ranges: bool = False,
    plain: str = "",
    sent: Callable[[], int] | None = None,
) -> dict[str, Any]:
    """Both loaders on the same shards, one after the other; open_clip's from ``plain`` if given."""
    folder = work / "shards"
    counts = json.loads((folder / "sizes.json").read_text())
    task: dict[str, Any] = {
        "what": "opening",
        "shards": shards,
        "warm": str(folder),
        "num_shards": len(counts),
        "num_samples": sum(counts.values()),
        "batch_size": options.batch_size,
        "num_workers": options.num_workers,
        "repeats": options.repeats,
    }
    rows: dict[str, Any] = {}
    for loader in LOADERS:
        caches = work / "caches"
        shutil.rmtree(caches, ignore_errors=True)
        caches.mkdir()
        is_remote = "://" in shards
        remote: dict[str, Any] = {"caches": str(caches), "ranges": ranges} if is_remote else {}
        if loader == "open_clip":
            remote["shards"] = plain or shards
        peer = options.peer if loader == "open_clip" else None
        before = sent() if sent else 0
        rows[loader] = run_child({**task, **remote, "loader": loader}, peer)
        if sent:
            rows[loader]["mb_each"] = round((sent() - before) / options.repeats / 1e6, 1)
    rows["ratio"] = round(rows["clipkit"]["seconds"] / rows["open_clip"]["seconds"], 2)
    return rows


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", type=Path)
    parser.add_argument("--peer", type=Path, required=True, help="folder with webdataset 0.2.86")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds per request")
    parser.add_argument("--rate", type=float, default=25.0, help="megabytes per second")
    options = parser.parse_args()
    folder = options.work / "shards"
    if not (folder / "sizes.json").exists():
        from clipkit.data import ShardIndex

        index = ShardIndex.from_urls(folder)
        counts = {Path(shard.url).name: shard.num_samples for shard in index.shards}
        (folder / "sizes.json").write_text(json.dumps(counts))
    os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    report = {"local": measure(options.work, str(folder), options)}
    for layout, ranges in (("shards alone", False), ("as packed", False), ("as packed", True)):
        with http(folder, layout, options) as (url, sent):
            name = f"HTTP, {layout}{', ranges' if ranges else ''}"
            report[name] = measure(options.work, url, options, ranges, sent=sent)
    for ranges in (False, True):
        with s3(folder, "as packed", options) as (url, sent):
            name = f"S3, as packed{', ranges' if ranges else ''}"
            plain = f"{os.environ['AWS_ENDPOINT_URL']}/bench"
            report[name] = measure(options.work, url, options, ranges, plain, sent)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
