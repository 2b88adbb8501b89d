"""One measurement of one loader in this process; ``bench_loader.py`` starts these.

    python tools/loader_runs.py '{"what": "throughput", "loader": "clipkit", "shards": "DIR", ...}'

prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import psutil
import torch
from step_times import StepTimes
from torch import Tensor

IMAGE_SIZE = 224
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
WARM_UP_SECONDS = 4.0


def clipkit_stream(task: dict[str, Any]) -> Any:
    """The stream with its defaults: random crops, resized to 224 pixels."""
    from clipkit.data import OpenClipTokenizer, PairStream, ShardCache, ShardIndex

    cache = None
    if "caches" in task:
        cache = ShardCache(tempfile.mkdtemp(dir=task["caches"]), ranges=task["ranges"])
    return PairStream(
        ShardIndex.from_urls(shards_of(task) if cache else task["shards"], cache=cache),
        tokenizer=OpenClipTokenizer("ViT-B-32"),
        batch_size=task["batch_size"],
        image_size=IMAGE_SIZE,
        num_workers=task["num_workers"],
        rank=0,
        world_size=1,
    )


def shards_of(task: dict[str, Any]) -> str:
    """The pattern of all shards."""
    return f"{task['shards']}/{{{0:05d}..{task['num_shards'] - 1:05d}}}.tar"


def webdataset_source(task: dict[str, Any]) -> Any:
    """The same options, read from front to back by webdataset."""
    from clipkit.data import OpenClipTokenizer, WebDatasetShards, WebDatasetSource

    return WebDatasetSource(
        WebDatasetShards(task["shards"], task["num_samples"]),
        tokenizer=OpenClipTokenizer("ViT-B-32"),
        batch_size=task["batch_size"],
        image_size=IMAGE_SIZE,
        num_workers=task["num_workers"],
        rank=0,
        world_size=1,
    )


def clipkit_batches(task: dict[str, Any]) -> Iterator[Tensor]:
    """Images as a model takes them, epoch after epoch; normalised here, in the main process."""
    is_exact = task["loader"] == "clipkit"
    stream = clipkit_stream(task) if is_exact else webdataset_source(task)
    while True:
        for batch in stream:
            stream.commit(batch)
            yield normalized(batch.images)


def normalized(pixels: Tensor) -> Tensor:
    """What ``DualEncoder.normalize`` does to a batch."""
    return pixels.float().div_(255).sub_(MEAN).div_(STD)


def open_clip_batches(task: dict[str, Any]) -> Iterator[Tensor]:
    """The training loader of open_clip's own trainer, with its default crops."""
    from open_clip import get_tokenizer
    from open_clip.transform import image_transform
    from open_clip_train.data import get_data

    options = argparse.Namespace(
        train_data=shards_of(task),
        train_num_samples=task.get("num_samples"),
        train_data_upsampling_factors=None,
        val_data=None,
        imagenet_val=None,
        imagenet_v2=None,
        dataset_type="webdataset",
        batch_size=task["batch_size"],
        workers=task["num_workers"],
        world_size=1,
        seed=0,
    )
    transforms = [image_transform(IMAGE_SIZE, is_train) for is_train in (True, False)]
    data = get_data(options, transforms, tokenizer=get_tokenizer("ViT-B-32"))["train"]
    while True:
        for batch in data.dataloader:
            # Its releases give a pair, its main branch a mapping.
            yield batch["image"] if isinstance(batch, dict) else batch[0]


LOADERS: dict[str, Callable[[dict[str, Any]], Iterator[Tensor]]] = {
    "clipkit": clipkit_batches,
    "clipkit_webdataset": clipkit_batches,
    "open_clip": open_clip_batches,
}


def throughput(task: dict[str, Any]) -> dict[str, Any]:
    """Images per second once everything runs, and what a worker holds then."""
    batches = LOADERS[task["loader"]](task)
    first = next(batches)
    assert first.shape == (task["batch_size"], 3, IMAGE_SIZE, IMAGE_SIZE), first.shape
    assert first.dtype == torch.float32
    start = time.perf_counter()
    while time.perf_counter() - start < WARM_UP_SECONDS:
        next(batches)
    start, before, images = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - start < task["seconds"]:
        images += len(next(batches))
    seconds, busy = time.perf_counter() - start, cpu_seconds() - before
    workers = [child.memory_full_info() for child in psutil.Process().children()]
    return {
        "images_per_second": round(images / seconds, 1),
        "cpu_milliseconds_per_image": round(1000 * busy / images, 2),
        "images": images,
        "worker_private_mib": [round(info.uss / 2**20) for info in workers],
        "worker_resident_mib": [round(info.rss / 2**20) for info in workers],
    }


def cpu_seconds() -> float:
    """CPU time of this process and its workers, which other programs lengthen little."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children())]
    return sum(one.user + one.system for one in times)


def opening(task: dict[str, Any]) -> dict[str, Any]:
    """Seconds from a loader that does not exist to its first batch; caches are empty each time."""
    make = LOADERS[task["loader"]]
    next(make({**task, "shards": task["warm"]}))  # imports
    seconds = []
    for _ in range(task["repeats"]):
        start = time.perf_counter()
        batches = make(task)
        next(batches)
        seconds.append(round(time.perf_counter() - start, 3))
        del batches
    return {"seconds": float(np.median(seconds)), "spread": [min(seconds), max(seconds)]}


def first_batch(task: dict[str, Any]) -> dict[str, Any]:
    """Seconds to the first batch of a stream: fresh, and resumed late in an epoch."""
    stream = clipkit_stream(task)
    next(iter(stream))  # imports and files of this machine are warm from here on
    state = stream.state_dict()
    late = {**state, "position": int(task["late"] * stream.num_samples)}
    del stream
    found: dict[str, list[float]] = {"fresh": [], "late": []}
    for _ in range(task["repeats"]):
        for name in found:
            start = time.perf_counter()
            stream = clipkit_stream(task)
            if name == "late":
                stream.load_state_dict(late)
            next(iter(stream))
            found[name].append(time.perf_counter() - start)
            del stream
    fresh, resumed = (float(np.median(found[name])) for name in ("fresh", "late"))
    return {
        "fresh_seconds": round(fresh, 4),
        "resumed_seconds": round(resumed, 4),
        "ratio": round(resumed / fresh, 3),
        "spread_seconds": {
            name: [round(s, 4) for s in sorted(times)] for name, times in found.items()
        },
    }


def borders(task: dict[str, Any]) -> dict[str, Any]:
    """Seconds that a step waits for its batch, at the start and around the ends of epochs.

    Other work of a step is time in which this process sleeps, as it does while a GPU computes.
    """
    next(iter(clipkit_stream({**task, "batch_size": 8, "num_workers": 0})))  # imports
    waits: list[list[float]] = []
    with SharedMemory() as memory:
        start = time.perf_counter()
        stream = clipkit_stream(task)
        for _ in range(task["epochs"]):
            waits.append([])
            for batch in stream:
                waits[-1].append(time.perf_counter() - start)
                time.sleep(task["step_seconds"])
                stream.commit(batch)
                del batch
                start = time.perf_counter()
    inside = [wait for epoch in waits for wait in epoch[1:]]
    return {
        "first_batch_seconds": round(waits[0][0], 3),
        "next_epochs_seconds": [round(epoch[0], 3) for epoch in waits[1:]],
        "other_batches_seconds": round(float(np.median(inside)), 3),
        "shared_memory_mib": round(memory.peak / 2**20, 1),
    }


class SharedMemory:
    """The most bytes of shared memory in use at a time, in addition to those at the start."""

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> SharedMemory:
        self._before = shutil.disk_usage("/dev/shm").used
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            used = shutil.disk_usage("/dev/shm").used
            self.peak = max(self.peak, used - self._before)


def steps(task: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of an image in each step, without workers, and of handing a batch over."""
    clock = StepTimes(task["loader"])
    batches = LOADERS[task["loader"]]({**task, "num_workers": 0})
    next(batches)
    with clock:
        taken = list(islice(batches, task["num_batches"]))
    images = sum(map(len, taken))
    found = {name: 1000 * seconds / images for name, seconds in clock.seconds().items()}
    ready = taken[-1]
    if task["loader"] == "clipkit":
        ready = ready.byte()
    found["transfer"] = 1000 * transfer_seconds(ready) / len(ready)
    total = sum(found.values())
    return {
        "milliseconds_per_image": {name: round(value, 3) for name, value in found.items()},
        "share": {name: round(value / total, 3) for name, value in found.items()},
        "total_milliseconds": round(total, 3),
    }


class Ready(torch.utils.data.Dataset[Tensor]):
    """The same batch again and again, copied as a collate function would make it."""

    def __init__(self, batch: Tensor) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 40

    def __getitem__(self, _: int) -> Tensor:
        return self.batch


def transfer_seconds(batch: Tensor) -> float:
    """Time from a worker that has a batch ready to the main process that has it."""
    loader = torch.utils.data.DataLoader(Ready(batch), batch_size=None, num_workers=1)
    batches = iter(loader)
    for _ in range(4):
        next(batches)
    start = time.perf_counter()
    count = sum(1 for _ in batches)
    return (time.perf_counter() - start) / count


def planning(task: dict[str, Any]) -> dict[str, Any]:
    """What the order of a large data set costs, without any data: counts of shards are enough."""
    from clipkit.data.order.lanes import LaneShuffle, choose_layout

    before = resident_peak()
    counts = np.full(-(-task["num_samples"] // 10_000), 10_000, dtype=np.int64)
    start = time.perf_counter()
    layout = choose_layout(
        task["num_samples"], task["batch_size"], task["world_size"], random_access=False
    )
    order = LaneShuffle(counts, layout, seed=0)
    made = time.perf_counter() - start
    step = task["batch_size"] * task["world_size"]

    def batch(epoch: int, position: int) -> float:
        start = time.perf_counter()
        order.ids(epoch, np.arange(position, position + task["batch_size"]))
        return time.perf_counter() - start

    first = batch(0, 0)
    late = batch(0, int(0.9 * order.num_samples) // step * step)
    number = max(1, min(200, order.num_samples // step - 1))
    following = [batch(1, position * step) for position in range(number)]
    return {
        "shards": len(counts),
        "lanes": layout.num_lanes,
        "order_seconds": round(made, 4),
        "first_batch_seconds": round(first, 4),
        "batch_at_90_percent_seconds": round(late, 4),
        "next_epochs_first_batch_seconds": round(following[0], 4),
        "batch_seconds_mean": round(float(np.mean(following[1:] or following)), 5),
        "peak_mib": round((resident_peak() - before) / 2**20, 1),
    }


def resident_peak() -> int:
    """The most bytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    torch.set_num_threads(1)
    task = json.loads(sys.argv[1])
    run = {
        "throughput": throughput,
        "first_batch": first_batch,
        "opening": opening,
        "borders": borders,
        "steps": steps,
        "planning": planning,
    }[task["what"]]
    print(json.dumps(run(task)))


if __name__ == "__main__":
    main()
