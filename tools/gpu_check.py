"""Runs the parts of the GPU check, each within its time, and writes their results as JSON.

Started by `tools/gpu_check.sh`, which describes the options; what a part consists of is in
`tools/gpu_parts.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from clipkit.atomic_files import write_json  # noqa: E402
from tools.gpu_parts import PARTS, Command, Plan, num_cores  # noqa: E402

PACKAGES = ("torch", "triton", "lightning", "open_clip_torch", "siglip-kernel", "clipkit")
ASK = """
import json, torch
num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
card = torch.cuda.get_device_name() if num_gpus else None
print(json.dumps({"card": card, "num_gpus": num_gpus, "cuda": torch.version.cuda}))
"""
DONE = "done"
PATIENCE = 40.0
"""Seconds between SIGTERM and SIGKILL; torchrun's ranks, in sessions of their own, end in 30."""


class Results:
    """Lines of JSON, each on the disk before the next one is made."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._lock = threading.Lock()

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Write a line, and show it."""
        line = json.dumps({"part": part, **row})
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        print(line, flush=True)


def machine() -> dict[str, Any]:
    """The card, how many there are, and the versions."""
    # in a process of its own, because asking for the name takes memory of the card until the end
    asked = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, check=True
    ).stdout
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        **json.loads(asked.splitlines()[-1]),
        "cores": num_cores(),
        "commit": commit or None,
        "versions": versions,
    }  # fmt: skip


def run_command(
    command: Command, seconds: float, log: Any, found: Callable[[dict[str, Any]], None]
) -> int | None:
    """Run a command in its own process group; return its status, None if it ran out of time.

    Lines of its output that are JSON are handed over as they come; all lines go to the log.
    """
    environment = {**os.environ, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5", **command.environment}
    environment["PYTHONPATH"] = ":".join(
        [*command.paths, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    log.write(f"$ {' '.join(command.words)}\n")
    process = subprocess.Popen(
        command.words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            if (row := command.parse(line)) is not None:
                found(row)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        status: int | None = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        end_group(process)
    reader.join(timeout=PATIENCE)
    return status


def end_group(process: subprocess.Popen[str]) -> None:
    """End a command with everything that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        until = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
    process.wait()


def attempt(
    command: Command, seconds: float, log: Any, found: Callable[[dict[str, Any]], None]
) -> str | None:
    """Run a command; return DONE, why it failed, or None if it ran out of time."""
    status = run_command(command, seconds, log, found)
    if status is None:
        return None
    if status != 0:
        return f"status {status}"
    try:
        if command.after is not None:
            found(command.after())
    except (OSError, KeyError, ValueError) as error:
        return f"no result: {type(error).__name__}: {error}"
    return DONE


def run_part(name: str, plan: Plan, results: Results, limit: float) -> dict[str, Any]:
    """Run the commands of a part one after the other; return what became of it."""
    start, failed, num_run = time.monotonic(), [], 0
    with (plan.out / f"{name}.log").open("w", encoding="utf-8") as log:
        for command in PARTS[name](plan):
            if isinstance(command, str):
                results.add(name, {"skipped": command})
                continue
            num_run += 1
            left = limit - (time.monotonic() - start)
            reason = f"more than {limit:g} s"
            if left > 0:
                reason = attempt(command, left, log, lambda row: results.add(name, row)) or reason
            if reason != DONE:
                results.add(name, {"failed": command.title, "reason": reason})
                failed.append(command.title)
    outcome = "failed" if failed else "passed" if num_run else "skipped"
    return {"outcome": outcome, "failed": failed, "seconds": round(time.monotonic() - start, 1)}


def interrupted(number: int, _: Any) -> None:
    """Leave through the clean-up of the running command."""
    raise SystemExit(128 + number)


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with small numbers")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="of a part")
    args = parser.parse_intermixed_args()
    if unknown := [name for name in args.parts if name not in PARTS]:
        parser.error(f"PART: expected some of {', '.join(PARTS)}, got {', '.join(unknown)}")
    about = machine()
    if not args.dry_run and about["card"] is None:
        parser.error("expected a CUDA device, found none; --dry-run runs the parts on a CPU")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupted)
    plan = Plan.small(args.out) if args.dry_run else Plan(args.out, about["num_gpus"])
    results = Results(args.out / "results.jsonl")
    chosen = args.parts or list(PARTS)
    outcomes: dict[str, Any] = {name: {"outcome": "not run"} for name in chosen}
    summary = {"dry_run": args.dry_run, "machine": about, "parts": outcomes}
    try:
        for name in chosen:
            outcomes[name] = {"outcome": "interrupted"}
            write_json(args.out / "summary.json", summary)
            outcomes[name] = run_part(name, plan, results, args.limit)
            write_json(args.out / "summary.json", summary)
    finally:
        shutil.rmtree(plan.scratch, ignore_errors=True)
    return int(any(outcome["outcome"] == "failed" for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
