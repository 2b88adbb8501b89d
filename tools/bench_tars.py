"""CPU time of reading a tar from front to back: clipkit's reader against webdataset's.

    python tools/bench_tars.py [--samples 2000] [--image-bytes 60000] [--rounds 7]

Both read the same file, which is in the page cache, into samples of bytes, in turn. "webdataset,
checked" is webdataset's reader after clipkit has read the headers: what it would take to keep that
reader and still report damage.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from clipkit.data import ShardWriter
from clipkit.data.shards.sequential import read_samples
from clipkit.data.shards.tar_headers import TarWalk


def by_clipkit(path: Path) -> Iterable[Any]:
    with path.open("rb") as file:
        yield from read_samples(file, str(path))


def by_webdataset(path: Path) -> Iterable[Any]:
    with path.open("rb") as file:
        yield from group_by_keys(tar_file_expander([{"url": str(path), "stream": file}]))


def by_webdataset_checked(path: Path) -> Iterable[Any]:
    with path.open("rb") as file:
        read_at = lambda offset, size: os.pread(file.fileno(), size, offset)  # noqa: E731
        for _ in TarWalk(read_at, path.stat().st_size, str(path)).entries():
            pass
    yield from by_webdataset(path)


READERS: dict[str, Callable[[Path], Iterable[Any]]] = {
    "clipkit": by_clipkit,
    "webdataset": by_webdataset,
    "webdataset, checked": by_webdataset_checked,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--image-bytes", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "00000.tar"
        with ShardWriter(path) as shard:
            for number in range(options.samples):
                image = rng.randbytes(options.image_bytes)
                shard.write(f"{number:06d}", {"jpg": image, "txt": b"a dog", "json": b"{}"})
        seconds: dict[str, list[float]] = {name: [] for name in READERS}
        for _ in range(options.rounds):
            for name, reader in READERS.items():
                start = time.process_time()
                count = sum(1 for _ in reader(path))
                seconds[name].append(time.process_time() - start)
                assert count == options.samples
    print(f"webdataset {webdataset.__version__}, {options.image_bytes} bytes per image")
    for name, values in seconds.items():
        times = [
            1e6 * value / options.samples for value in (statistics.median(values), min(values))
        ]
        print(f"{name}: {times[0]:.0f} us of CPU time per sample (least {times[1]:.0f})")


if __name__ == "__main__":
    main()
