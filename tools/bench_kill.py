"""kill -9 at random moments of a run, then a resume: how many samples are lost, how many repeated?

    python tools/bench_kill.py [--kills 20] [--output FILE.json]

A run is killed again and again and goes on each time, under the same or another topology, until it
has seen some epochs. The loop is all that a trainer must do: train, commit, save a checkpoint now
and then. What was trained on after the last checkpoint is lost with the weights, so it must come
again; what is counted here is what the weights that survive were trained on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipkit.data import OrderOptions, PairStream, ShardIndex
from clipkit.data.packing.pack import ShardWriter

NUM_EPOCHS = 3
CHECKPOINT_EVERY_STEPS = 5


@dataclass(frozen=True)
class Topology:
    """Who reads: ranks, samples of a rank's batch, worker processes of a rank."""

    world_size: int
    batch_size: int
    num_workers: int = 0


SCENARIOS = {
    "same topology": [Topology(1, 8)],
    "same topology, 2 workers": [Topology(1, 8, num_workers=2)],
    "2 ranks -> 1": [Topology(2, 4), Topology(1, 8)],
    "1 rank -> 2": [Topology(1, 8), Topology(2, 4)],
    "other workers": [Topology(1, 8, 1), Topology(1, 8, 2), Topology(1, 8)],
    "other batch": [Topology(1, 8), Topology(1, 5), Topology(2, 3), Topology(1, 12)],
}
"""The topologies that a run goes through, one after each kill, again from the first."""


class Characters:
    """The smallest tokenizer."""

    pad_id = 0

    def encode(self, text: str) -> list[int]:
        """One id a character."""
        return [ord(character) for character in text]


class Gray:
    """A transform that costs nothing."""

    def __call__(self, data: bytes, rng: np.random.Generator) -> torch.Tensor:  # noqa: ARG002
        """One level by chance, whatever the picture."""
        return torch.full((3, 4, 4), int(rng.integers(256)), dtype=torch.uint8)


def make_shards(folder: Path, num_samples: int) -> None:
    """Shards of very uneven sizes."""
    rng = random.Random(1)
    number = shard = 0
    while number < num_samples:
        count = min(rng.randint(num_samples // 20, num_samples // 4), num_samples - number)
        with ShardWriter(folder / f"{shard}.tar") as writer:
            for key in (f"{number + i:06d}" for i in range(count)):
                writer.write(key, {"jpg": b"x", "txt": key.encode()})
        number, shard = number + count, shard + 1
    ShardIndex.from_urls(folder)


def run_loop(folder: Path, out: Path, topology: Topology) -> None:
    """Train all ranks of ``topology`` in step until the epochs are over."""
    torch.set_num_threads(1)
    index = ShardIndex.from_urls(folder)
    streams = [
        PairStream(
            index,
            tokenizer=Characters(),
            image_transform=Gray(),
            batch_size=topology.batch_size,
            num_workers=topology.num_workers,
            rank=rank,
            world_size=topology.world_size,
            seed=11,
            order=OrderOptions(shuffle_window=50),
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
        steps = 0
        while streams[0].epoch < NUM_EPOCHS:
            for batches in zip(*streams, strict=True):
                keys = [key for batch in batches for key in batch.keys]
                log.write(f"{trained} {epoch_of(batches[0].cursor)} {' '.join(keys)}\n")
                trained += len(keys)
                steps += 1
                for stream, batch in zip(streams, batches, strict=True):
                    stream.commit(batch)
                if steps % CHECKPOINT_EVERY_STEPS == 0:
                    save(out, trained, streams)
    save(out, trained, streams)


def epoch_of(cursor: Any) -> int:
    """The epoch of a batch, by the cursor that holds after it."""
    return int(cursor["epoch"]) - (cursor["position"] == 0)


def save(out: Path, trained: int, streams: list[PairStream]) -> None:
    """One checkpoint for all ranks: their states are the same."""
    states = [stream.state_dict() for stream in streams]
    assert all(state == states[0] for state in states)
    torch.save({"trained": trained, "stream": states[0]}, out / "checkpoint.tmp")
    (out / "checkpoint.tmp").replace(out / "checkpoint.pt")


def trained_keys(out: Path) -> list[list[str]]:
    """What the surviving weights were trained on, epoch by epoch.

    A line that starts before the last one ended comes from a resume, and undoes what the weights
    of the checkpoint had not seen.
    """
    keys: list[tuple[int, str]] = []
    for line in (out / "keys.log").read_text().splitlines():
        start, epoch, *more = line.split()
        assert int(start) <= len(keys), "a resume went on later than its checkpoint"
        del keys[int(start) :]
        keys += [(int(epoch), key) for key in more]
    return [[key for epoch, key in keys if epoch == number] for number in range(NUM_EPOCHS)]


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


def num_lines(path: Path) -> int:
    """Whole lines so far."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def run_killed(folder: Path, out: Path, topologies: list[Topology], kills: int, seed: int) -> int:
    """A run with ``kills`` interruptions; how many happened before it ended."""
    rng = random.Random(seed)
    context = mp.get_context("fork")
    happened = 0
    for attempt in range(kills + 1):
        topology = topologies[attempt % len(topologies)]
        process = context.Process(target=run_loop, args=(folder, out, topology))
        process.start()
        if attempt < kills and kill_at_random(process, out / "keys.log", rng):
            happened += 1
            continue
        process.join(timeout=600)
        assert process.exitcode == 0, f"the run ended with status {process.exitcode}"
        break
    return happened


def judge(name: str, out: Path, num_samples: int, kills: int, whole: list[str]) -> dict[str, Any]:
    """What came of a killed run, against the data and against an undisturbed run."""
    epochs = trained_keys(out)
    dropped = torch.load(out / "checkpoint.pt", weights_only=True)["stream"]["dropped"]
    missing = sum(num_samples - len(set(keys)) for keys in epochs)
    trained = [key for keys in epochs for key in keys]
    return {
        "scenario": name,
        "kills": kills,
        "samples_trained_on": len(trained),
        "dropped_at_epoch_ends": dropped,
        "lost": missing - dropped,
        "repeated": sum(len(keys) - len(set(keys)) for keys in epochs),
        "same_order_as_undisturbed": trained == whole[: len(trained)] if not dropped else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="in each scenario")
    parser.add_argument("--samples", type=int, default=4000, help="of an epoch")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_shards(root / "shards", options.samples)
        (root / "whole").mkdir()
        run_loop(root / "shards", root / "whole", SCENARIOS["same topology"][0])
        whole = [key for keys in trained_keys(root / "whole") for key in keys]
        for number, (scenario, topologies) in enumerate(SCENARIOS.items()):
            out = root / str(number)
            out.mkdir()
            start = time.monotonic()
            kills = run_killed(root / "shards", out, topologies, options.kills, options.seed)
            result = judge(scenario, out, options.samples, kills, whole)
            results.append({**result, "seconds": round(time.monotonic() - start, 1)})
            print(json.dumps(results[-1]), flush=True)
    if options.output:
        options.output.write_text(json.dumps({"epochs": NUM_EPOCHS, "results": results}, indent=2))


if __name__ == "__main__":
    main()
