"""What happens to a run when something breaks, and what is lost: the real command, real faults.

    python tools/bench_crash.py [--json FILE] [--only NAME ...]

Every scenario trains one epoch of coloured squares, a step of 8 of them at a time, so that the keys
in the log tell what was lost (trained on by no step that the weights remember) or came twice. The
weights at the end are compared with those of a run of two ranks that nothing disturbed. "Disk full"
needs the right to mount a small file system, and is left out elsewhere.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from crash_run import (
    FAULT_AT,
    NUM_SHARDS,
    NUM_STEPS,
    SAVE_EVERY,
    SHARD_SAMPLES,
    STEP_SAMPLES,
    Run,
    Server,
)
from fault_samples import jpeg, write

OUTAGE_SECONDS = 60


def ranks_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes that train, without torchrun's own."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "clipkit.cli.main" in child.cmdline()]


def end_by(run: Run, act: Callable[[subprocess.Popen[bytes]], None]) -> dict[str, Any]:
    """Disturb a run at a step, let it end, start the same command again."""
    process = run.start()
    run.until(FAULT_AT, process)
    act(process)
    begun = time.monotonic()
    status = process.wait(timeout=300)
    result = {
        "status": status,
        "seconds_to_end": round(time.monotonic() - begun, 1),
        "step_at_fault": run.steps(),
        "step_of_checkpoint": run.saved_step(),
    }
    result["steps_done_again"] = result["step_at_fault"] - result["step_of_checkpoint"]
    assert run.finish() == 0, run.tail()
    return result


def kill_one(run: Run) -> dict[str, Any]:
    return end_by(run, lambda process: ranks_of(process)[-1].kill())


def kill_all(run: Run) -> dict[str, Any]:
    return end_by(run, lambda process: os.killpg(process.pid, signal.SIGKILL))


def sigterm(run: Run) -> dict[str, Any]:
    return end_by(run, lambda process: process.send_signal(signal.SIGTERM))


def sigterm_to_one(run: Run) -> dict[str, Any]:
    return end_by(run, lambda process: ranks_of(process)[-1].terminate())


def disk_full(run: Run) -> dict[str, Any]:
    """A small file system for the checkpoints, full for a while."""
    run.saves_in = run.folder / "small"
    run.saves_in.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(run.saves_in)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return {"skipped": "mounting is not allowed here"}
    try:
        process = run.start()
        run.until(FAULT_AT, process)
        filler = run.saves_in / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(2**20))
            except OSError:
                pass
        run.until(FAULT_AT + 2 * SAVE_EVERY, process)
        during = run.saved_step()
        filler.unlink()
        status = process.wait(timeout=300)
        said = run.log.read_text().count("No space left on device; the run goes on")
        result = {"status": status, "failed_writes": said, "step_of_checkpoint_while_full": during}
        result["weights"] = run.weights()
        return result
    finally:
        subprocess.run(["umount", str(run.saves_in)], check=True)


def nan(run: Run) -> dict[str, Any]:
    status = run.finish()
    lines = (run.folder / "bad_steps.jsonl").read_text().splitlines()
    left_out = [json.loads(line) for line in lines]
    finite = all(bool(value.isfinite().all()) for value in run.weights().values())
    return {
        "status": status,
        "steps_left_out": sorted({line["step"] for line in left_out}),
        "keys_written_down": sum(len(line["keys"]) for line in left_out),
        "weights_finite": finite,
    }


def server_down(run: Run, server: Server) -> dict[str, Any]:
    """A server that is away, and a cache that is empty, as one smaller than the data soon is."""
    process = run.start()
    run.until(FAULT_AT, process)
    server.down()
    for shard in (run.folder / "cache").glob("??/*.tar"):
        shard.unlink()
    time.sleep(OUTAGE_SECONDS)
    stood_at = run.steps()
    server.up()
    back = time.monotonic()
    run.until(stood_at + 1, process)
    return {
        "seconds_until_the_next_step": round(time.monotonic() - back, 1),
        "step_when_data_ran_out": stood_at,
        "status": process.wait(timeout=300),
        "new_tries": run.log.read_text().count("trying again in"),
    }


def make_shards(folder: Path) -> str:
    folder.mkdir()
    for shard in range(NUM_SHARDS):
        first = shard * SHARD_SAMPLES
        samples = [
            (f"{first + i:05d}", {"jpg": jpeg(first + i), "txt": f"square {first + i}".encode()})
            for i in range(SHARD_SAMPLES)
        ]
        write(folder / f"{shard:05d}.tar", samples)
    return f"{folder}/*.tar"


def judge(run: Run, result: dict[str, Any], undisturbed: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What was lost, what came twice, and how far the weights are from those undisturbed."""
    if "skipped" in result:
        return result
    keys = run.keys()
    judged: dict[str, float] = {
        "samples_lost": NUM_STEPS * STEP_SAMPLES - len(set(keys)),
        "samples_twice": len(keys) - len(set(keys)),
    }
    weights = result.pop("weights", None) or run.weights()
    if "://" not in run.train:  # other URLs are other data, in another order
        far = max(float((weights[name] - undisturbed[name]).abs().max()) for name in undisturbed)
        judged["largest_difference_of_weights"] = far
    return {**result, **judged}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--only", nargs="*", default=[], help="names of scenarios")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = make_shards(folder / "train")
        server = Server(folder / "train")
        remote = f"http://127.0.0.1:{server.port}/{{00000..{NUM_SHARDS - 1:05d}}}.tar"
        poison = {"class_path": "crash_run.Poison"}
        scenarios: dict[str, Callable[[], tuple[Run, dict[str, Any]]]] = {
            "kill -9 of one rank of two": lambda: played(kill_one, folder / "one", train, 2),
            "kill -9 of everything": lambda: played(kill_all, folder / "all", train, 2),
            "SIGTERM to torchrun": lambda: played(sigterm, folder / "term", train, 2),
            "SIGTERM to one rank": lambda: played(sigterm_to_one, folder / "term1", train, 2),
            "disk full at checkpoints": lambda: played(disk_full, folder / "disk", train, 2),
            "NaN in two steps": lambda: played(nan, folder / "nan", train, 2, poison),
            "data server down for a minute": lambda: played(
                functools.partial(server_down, server=server), folder / "http", remote, 2
            ),
        }
        undisturbed = Run(folder / "undisturbed", train, 2)
        assert undisturbed.finish() == 0, undisturbed.tail()
        results: dict[str, Any] = {}
        for scenario, play in scenarios.items():
            if not options.only or scenario in options.only:
                run, result = play()
                results[scenario] = judge(run, result, undisturbed.weights())
                print(f"{scenario}: {json.dumps(results[scenario])}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def played(
    play: Callable[[Run], dict[str, Any]], folder: Path, train: str, ranks: int, *extra: Any
) -> tuple[Run, dict[str, Any]]:
    run = Run(folder, train, ranks, *extra)
    return run, play(run)


if __name__ == "__main__":
    main()
