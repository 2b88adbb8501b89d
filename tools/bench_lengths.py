"""What sorting captions by length inside a window saves: padding, and time of a step.

    clipkit shards pack captions.csv shards
    python tools/bench_lengths.py shards --output lengths.json

Padding is counted over an epoch of all caption lines, each as a sample of its own, in clipkit's
order. Steps are those of ViT-B/32 on random pixels with the lengths of that order; loader rates are
those of ``PairStream`` in this process. Prints and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from clipkit.data import (
    OpenClipTokenizer,
    OrderOptions,
    PairStream,
    SampleOptions,
    ShardIndex,
    TextField,
)
from clipkit.data.order.lanes import LaneLayout, LaneShuffle
from clipkit.data.order.length_buckets import LengthBucketing, LengthWindows
from clipkit.data.shards.reader import ShardReader
from clipkit.losses import CombinedLoss, ContrastiveLoss
from clipkit.models import from_open_clip
from clipkit.types import Batch

BATCHES = (64, 256, 1024)
WINDOWS = (None, 4, 16, 64)
TIMED_BATCH = 64
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


def lengths_of(index: ShardIndex, tokenizer: OpenClipTokenizer) -> Int64[np.ndarray, " N"]:
    """Tokens of every caption line."""
    reader = ShardReader(index)
    texts = [reader.read(i, IMAGE_EXTENSIONS).members["txt"] for i in range(index.num_samples)]
    lines = [line for text in texts for line in text.decode().splitlines() if line.strip()]
    return np.array([len(tokenizer.encode(line)) for line in lines])


def epoch_of(
    lengths: Int64[np.ndarray, " N"], batch_size: int, window: int | None, seed: int = 0
) -> list[Int64[np.ndarray, " B"]]:
    """The lengths of each batch of an epoch, in one process."""
    places = np.arange(len(lengths) // batch_size * batch_size)
    order = LaneShuffle([len(lengths)], LaneLayout(1, 1, len(lengths)), seed)
    if window is not None:
        dealer = LengthBucketing(LengthWindows(window, batch_size), len(lengths), seed)
        places = dealer.positions(
            0, places, lambda epoch, positions: lengths[order.ids(epoch, positions)]
        )
    return list(lengths[order.ids(0, places)].reshape(-1, batch_size))


def padding_of(batches: list[Int64[np.ndarray, " B"]]) -> dict[str, float]:
    """Share of padding, and how long the batches are."""
    longest = np.array([batch.max() for batch in batches])
    tokens = sum(int(batch.sum()) for batch in batches)
    return {
        "padding_share": round(1 - tokens / float((longest * len(batches[0])).sum()), 3),
        "mean_length": round(float(longest.mean()), 1),
    }


def batch_of(lengths: Int64[np.ndarray, " B"]) -> Batch:
    """Random pixels, and captions of these lengths as CLIP's tokenizer makes them."""
    tokens = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.int64)
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        row[:length] = torch.randint(1, 40_000, (length,))
        row[0], row[length - 1] = 49406, 49407
    pixels = torch.randint(0, 256, (len(lengths), 3, 224, 224), dtype=torch.uint8)
    labels = torch.full((len(lengths),), -100)
    return Batch(pixels, tokens, labels, ("",) * len(lengths))


def spread(batches: list[Int64[np.ndarray, " B"]], number: int) -> list[Batch]:
    """Some batches that stand for all of them: evenly spaced by their longest caption."""
    batches = sorted(batches, key=lambda lengths: int(lengths.max()))
    places = (np.arange(number) + 0.5) * len(batches) / number
    return [batch_of(batches[int(place)]) for place in places]


def step_rates(
    lengths: Int64[np.ndarray, " N"], text_steps: int, whole_steps: int
) -> dict[str, dict[str, float]]:
    """Samples a second, forwards and backwards; both orders in turn, step by step."""
    torch.manual_seed(0)
    encoder = from_open_clip("ViT-B-32").train()
    loss = CombinedLoss(ContrastiveLoss())
    orders = {str(window): epoch_of(lengths, TIMED_BATCH, window) for window in (None, 16)}

    def text(batch: Batch) -> None:
        encoder.encode_text(batch.tokens).sum().backward()

    def whole(batch: Batch) -> None:
        loss(encoder(batch), batch)["loss"].backward()

    rates: dict[str, dict[str, float]] = {}
    for part, run, number in (("text tower", text, text_steps), ("step", whole, whole_steps)):
        batches = {name: spread(order, number) for name, order in orders.items()}
        seconds = dict.fromkeys(orders, 0.0)
        run(batches["None"][0])  # warms up
        for step in range(number):
            for name in orders:
                start = time.perf_counter()
                run(batches[name][step])
                seconds[name] += time.perf_counter() - start
                encoder.zero_grad()
        rates[part] = {
            name: round(number * TIMED_BATCH / taken, 2) for name, taken in seconds.items()
        }
    return rates


def loader_rates(index: ShardIndex, num_batches: int) -> dict[str, float]:
    """Samples a second without workers, the files in the page cache; median of three."""
    rates: dict[str, list[float]] = {}
    for _ in range(3):
        for window in (None, 16):
            stream = PairStream(
                index,
                tokenizer=OpenClipTokenizer("ViT-B-32"),
                batch_size=TIMED_BATCH,
                rank=0,
                world_size=1,
                order=OrderOptions(length_bucket_batches=window),
                samples=SampleOptions(caption=TextField("txt", one_per_line=True)),
            )
            start = time.perf_counter()
            seen = sum(len(batch) for batch in islice(iter(stream), num_batches))
            rates.setdefault(str(window), []).append(seen / (time.perf_counter() - start))
    return {name: round(float(np.median(values)), 1) for name, values in rates.items()}


def main() -> None:
    """Measure all, print and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--text-steps", type=int, default=12)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--loader-batches", type=int, default=16)
    options = parser.parse_args()
    index = ShardIndex.from_urls(options.shards)
    lengths = lengths_of(index, OpenClipTokenizer("ViT-B-32"))
    found: dict[str, Any] = {
        "captions": {"number": len(lengths), "mean": round(float(lengths.mean()), 2)},
        "padding": {
            f"batch {batch_size}, window {window}": padding_of(
                epoch_of(lengths, batch_size, window)
            )
            for batch_size in BATCHES
            for window in WINDOWS
        },
        "loader samples/s": loader_rates(index, options.loader_batches),
        "samples/s": step_rates(lengths, options.text_steps, options.steps),
    }
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
