"""Masks against rewritten shards: seconds and bytes, resumes, and memory at a billion samples.

    python tools/bench_mask.py SHARDS WORK

SHARDS is a folder of local shards, of which a mask keeps a random share. The rewritten copy is made
with webdataset's reader and writer, shard by shard. Both streams must give the same keys.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from clipkit.data import OpenClipTokenizer, PairStream, SampleMask, ShardIndex
from clipkit.data.shards.masks.kept_samples import KeptBits
from clipkit.types import Batch

_OF_READER = ("__url__", "__local_path__")


def timed(action: Callable[[], Any], repeats: int) -> float:
    """Return the median of the seconds that an action takes."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def rewrite(index: ShardIndex, kept: np.ndarray, folder: Path) -> None:
    """Write the kept samples into new shards, as a resharder does."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    number = 0
    for shard in index.shards:
        samples = webdataset.WebDataset(str(shard.address.path), shardshuffle=False)
        with webdataset.TarWriter(str(folder / shard.address.name)) as writer:
            for sample in samples:
                if kept[number]:
                    writer.write({k: v for k, v in sample.items() if k not in _OF_READER})
                number += 1
    assert number == index.num_samples
    os.sync()


def size_of(folder: Path) -> int:
    """Return the bytes of the shards of a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


def stream_of(index: ShardIndex, options: argparse.Namespace) -> PairStream:
    """Return a stream over shards."""
    return PairStream(
        index,
        tokenizer=OpenClipTokenizer(),
        batch_size=options.batch_size,
        num_workers=options.num_workers,
    )


def keys_of(batches: Iterable[Batch]) -> list[tuple[str, ...]]:
    """Return the keys of batches."""
    return [tuple(batch.keys) for batch in batches]


def committed(stream: PairStream) -> Iterator[Batch]:
    """Yield the batches of an epoch, each trained on for no time."""
    for batch in stream:
        yield batch
        stream.commit(batch)


def half_way(index: ShardIndex, options: argparse.Namespace) -> dict[str, Any]:
    """Return the state after half an epoch."""
    state = stream_of(index, options).state_dict()
    step = options.batch_size
    return {**state, "position": index.kept.num_kept // 2 // step * step}


def first_batch(
    index: ShardIndex, options: argparse.Namespace, state: dict[str, Any] | None
) -> Callable[[], None]:
    """Return an action: open a stream, and take its first batch."""

    def action() -> None:
        stream = stream_of(index, options)
        if state is not None:
            stream.load_state_dict(state)
        next(iter(stream))

    return action


def reading(indexes: dict[str, ShardIndex], options: argparse.Namespace) -> dict[str, Any]:
    """Measure streams over shards in turns, without the first turn (imports, cold cache)."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in indexes}
    keys: dict[str, list[tuple[str, ...]]] = {}
    for turn in range(options.repeats + 1):
        for name, index in indexes.items():
            start = time.perf_counter()
            keys[name] = keys_of(committed(stream_of(index, options)))
            seconds = {"epoch_seconds": time.perf_counter() - start}
            for part, state in (("first", None), ("resumed", half_way(index, options))):
                seconds[f"{part}_batch_seconds"] = timed(first_batch(index, options, state), 1)
            for part, value in seconds.items():
                found[name].setdefault(part, []).extend([value] * (turn > 0))
    first, *others = keys.values()
    return {
        "equal keys in equal order": all(each == first for each in others),
        **{
            name: {part: round(statistics.median(values), 3) for part, values in parts.items()}
            for name, parts in found.items()
        },
    }


def against_copy(options: argparse.Namespace) -> dict[str, Any]:
    """Compare writing and reading with a rewritten copy."""
    index = ShardIndex.from_urls(options.shards)
    removed_by = (np.random.default_rng(0).random(len(index)) >= options.share).astype(np.uint8)
    file, copy = options.work / "bench.mask.npz", options.work / "copy"
    options.work.mkdir(parents=True, exist_ok=True)
    mask_seconds = timed(
        lambda: SampleMask.of(index, removed_by, ["at random"]).save(file), options.repeats
    )
    copy_seconds = timed(lambda: rewrite(index, removed_by == 0, copy), options.repeats)
    masked = index.with_mask(SampleMask.load(file))
    streams = reading({"mask": masked, "copy": ShardIndex.from_urls(copy)}, options)
    return {
        "samples": len(index),
        "kept": masked.kept.num_kept,
        "bytes of the shards": size_of(options.shards),
        "write a mask": {"seconds": round(mask_seconds, 4), "bytes": file.stat().st_size},
        "rewrite": {"seconds": round(copy_seconds, 3), "bytes": size_of(copy)},
        "streams": streams,
    }


def large(num_samples: int, share: float) -> dict[str, Any]:
    """Measure a mask of many samples."""
    rng = np.random.default_rng(0)
    bits = np.concatenate(
        [np.packbits(rng.random(size) < share, bitorder="little") for size in pieces(num_samples)]
    )
    start = time.perf_counter()
    kept = KeptBits(bits, num_samples)
    tables = time.perf_counter() - start
    numbers = rng.integers(0, kept.num_kept, 256)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    own = [value for value in vars(kept).values() if isinstance(value, np.ndarray)]
    return {
        "samples": num_samples,
        "kept": kept.num_kept,
        "bits_bytes": bits.nbytes,
        "tables_bytes": sum(each.nbytes for each in own if each.base is not bits),
        "ids_as_int64_bytes": 8 * kept.num_kept,
        "tables_seconds": round(tables, 3),
        "ids_of_256_microseconds": round(1e6 * timed(lambda: kept.ids(numbers), 100)),
        "peak_process_bytes": peak,
    }


def pieces(num_samples: int, size: int = 2**22) -> list[int]:
    """Divide a number into pieces of a multiple of 8."""
    return [min(size, num_samples - start) for start in range(0, num_samples, size)]


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("shards", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--share", type=float, default=0.7, help="share of kept samples")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", type=int, nargs="*", default=[10**6, 10**8, 10**9])
    options = parser.parse_args()
    report = {"masks": [large(number, options.share) for number in options.large]}
    print(json.dumps(report | {"against a copy": against_copy(options)}, indent=1))


if __name__ == "__main__":
    main()
