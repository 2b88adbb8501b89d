"""kill -9 at random moments, then a resume: nothing is lost, nothing comes twice.

The loop below is all that a trainer must do: train, commit, save a checkpoint now and then. What
was trained on after the last checkpoint is lost with the weights, so it must come again.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.data import PairStream, ShardIndex
from tests.data.fakes import ByteTokenizer, first_text
from tests.factories import write_shard

NUM_KILLS = 5
NUM_SAMPLES = 1200
SAMPLES_TO_TRAIN_ON = 3 * NUM_SAMPLES
CHECKPOINT_EVERY_STEPS = 5


class Gray:
    """A transform that costs nothing."""

    image_size = 4

    def __call__(self, data: bytes, rng: Any) -> torch.Tensor:
        return torch.full((3, 4, 4), int(rng.integers(256)), dtype=torch.uint8)


@dataclass(frozen=True)
class Topology:
    world_size: int
    batch_size: int
    num_workers: int = 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    counts = [97, 203, 60, 340, 150, 350]
    number = 0
    for shard, count in enumerate(counts):
        keys = [f"{number + i:05d}" for i in range(count)]
        write_shard(folder / f"{shard}.tar", [(k, {"jpg": b"x", "txt": k.encode()}) for k in keys])
        number += count
    assert number == NUM_SAMPLES
    ShardIndex.from_urls(folder)
    return folder


def run_loop(folder: Path, out: Path, topology: Topology) -> None:
    """Train all ranks of ``topology`` in step until enough samples were trained on."""
    index = ShardIndex.from_urls(folder)
    streams = [
        PairStream(
            index,
            tokenizer=ByteTokenizer(),
            image_transform=Gray(),
            caption=first_text,
            batch_size=topology.batch_size,
            num_workers=topology.num_workers,
            rank=rank,
            world_size=topology.world_size,
            shuffle_window=50,
            seed=11,
        )
        for rank in range(topology.world_size)
    ]
    trained = 0
    if (out / "checkpoint.pt").exists():
        checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
        trained = checkpoint["trained"]
        for stream in streams:
            stream.load_state_dict(checkpoint["stream"])
    with (out / "keys.log").open("a", buffering=1) as log:
        step = 0
        while trained < SAMPLES_TO_TRAIN_ON:
            for batches in zip(*streams, strict=True):
                keys = [key for batch in batches for key in batch.keys]
                log.write(f"{trained} {' '.join(keys)}\n")
                trained += len(keys)
                step += 1
                for stream, batch in zip(streams, batches, strict=True):
                    stream.commit(batch)
                if step % CHECKPOINT_EVERY_STEPS == 0:
                    states = [stream.state_dict() for stream in streams]
                    assert all(state == states[0] for state in states)
                    torch.save({"trained": trained, "stream": states[0]}, out / "checkpoint.tmp")
                    (out / "checkpoint.tmp").replace(out / "checkpoint.pt")
                if trained >= SAMPLES_TO_TRAIN_ON:
                    break


def start(folder: Path, out: Path, topology: Topology) -> Any:
    process = mp.get_context("fork").Process(target=run_loop, args=(folder, out, topology))
    process.start()
    return process


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at_random(process: Any, log: Path, rng: random.Random) -> bool:
    """Kill -9 after some more steps and a fraction of one; False if the run ended before."""
    wanted = num_lines(log) + rng.randint(1, 60)
    deadline = time.monotonic() + 120
    while num_lines(log) < wanted:
        if not process.is_alive():
            return False
        assert time.monotonic() < deadline, "the loop stands still"
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.01))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return True


def trained_keys(log: Path) -> list[str]:
    """What the surviving weights were trained on.

    A line that starts before the last one ended comes from a resume, and undoes what the weights
    of the checkpoint had not seen.
    """
    keys: list[str] = []
    for line in log.read_text().splitlines():
        start, *more = line.split()
        assert int(start) <= len(keys), "a resume went on later than its checkpoint"
        del keys[int(start) :]
        keys += more
    return keys


@pytest.mark.parametrize(
    "topologies",
    [
        [Topology(1, 8)],
        [Topology(1, 8, num_workers=2)],
        [Topology(2, 4), Topology(1, 8)],
        [Topology(1, 8), Topology(2, 4)],
        [Topology(1, 8, num_workers=1), Topology(1, 8, num_workers=2), Topology(1, 8)],
    ],
    ids=["same", "same-workers", "2-ranks-to-1", "1-rank-to-2", "other-workers"],
)
def test_killed_runs_end_as_if_nothing_had_happened(
    folder: Path, tmp_path: Path, topologies: list[Topology]
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    run_loop(folder, whole, Topology(1, 8))
    expected = trained_keys(whole / "keys.log")
    assert len(expected) == SAMPLES_TO_TRAIN_ON
    for epoch in range(3):
        assert len(set(expected[epoch * NUM_SAMPLES : (epoch + 1) * NUM_SAMPLES])) == NUM_SAMPLES

    rng = random.Random(str(topologies))
    out = tmp_path / "killed"
    out.mkdir()
    kills = 0
    for attempt in range(NUM_KILLS):
        process = start(folder, out, topologies[attempt % len(topologies)])
        kills += kill_at_random(process, out / "keys.log", rng)
    assert kills == NUM_KILLS
    process = start(folder, out, topologies[NUM_KILLS % len(topologies)])
    process.join(timeout=240)
    assert process.exitcode == 0
    assert trained_keys(out / "keys.log") == expected


def test_killed_runs_with_other_batches_lose_and_repeat_nothing(
    folder: Path, tmp_path: Path
) -> None:
    """Batches are cut elsewhere, so only sets can be compared, epoch by epoch."""
    rng = random.Random(5)
    sizes = [Topology(1, 8), Topology(1, 5), Topology(2, 3), Topology(1, 12)]
    for attempt in range(NUM_KILLS):
        process = start(folder, tmp_path, sizes[attempt % len(sizes)])
        assert kill_at_random(process, tmp_path / "keys.log", rng)
    process = start(folder, tmp_path, Topology(1, 10))
    process.join(timeout=240)
    assert process.exitcode == 0
    keys = trained_keys(tmp_path / "keys.log")
    # An epoch ends where fewer samples are left than a step takes: at most 11 of them.
    seen: set[str] = set()
    epochs = []
    for key in keys:
        if key in seen:
            epochs.append(len(seen))
            seen = set()
        seen.add(key)
    assert len(epochs) >= 2
    assert all(NUM_SAMPLES - 11 <= size <= NUM_SAMPLES for size in epochs)
