"""Host-device synchronisations of training steps on a GPU, with the line that makes each.

A complete `Trainer.fit` runs with the callbacks of configs/trainer/gpu.yaml; steps that are logged
are left out. torch reports a synchronisation as a warning, with which its line is found, but knows
only its own; `--profiler` counts those of the CUDA runtime instead. Prints a line of JSON::

    python tools/gpu_syncs.py
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FIRST, LAST, LOG_EVERY = 6, 16, 1000
STOPPED = "end of the counted steps"


def short(path: str) -> str:
    """A path below this repository or the installed packages."""
    return path.rsplit("site-packages/", 1)[-1].removeprefix(f"{ROOT}/")


class RecordSyncs(Callback):
    """Switches torch's reports on for some steps."""

    def __init__(self) -> None:
        self.places: collections.Counter[str] = collections.Counter()

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Switch the reports on."""
        if trainer.global_step == FIRST and torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Switch the reports off after the last step."""
        if trainer.global_step == LAST and torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")

    def note(self, message: Any, *_: Any, **__: Any) -> None:
        """Count a warning by the innermost lines outside of torch."""
        # the first report is the switch's own
        if "called a synchronizing" not in str(message):
            return
        frames = [
            f"{short(frame.filename)}:{frame.lineno}"
            for frame in traceback.extract_stack()[:-1]
            if "/torch/" not in frame.filename and "warnings" not in frame.filename
        ]
        self.places[" < ".join(reversed(frames[-3:]))] += 1


class ProfileSyncs(Callback):
    """Counts the synchronising calls of the CUDA runtime in some steps.

    Recording begins and ends with a synchronisation of its own, which is not inside of it.
    """

    def __init__(self) -> None:
        self.places: collections.Counter[str] = collections.Counter()
        self._profile: torch.profiler.profile | None = None

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Start recording."""
        if trainer.global_step == FIRST:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profile = torch.profiler.profile(activities=activities)
            self._profile.start()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Count after the last step."""
        if trainer.global_step == LAST and self._profile is not None:
            with torch.profiler.record_function(STOPPED):
                pass
            self._profile.stop()
            self._count(self._profile)
            self._profile = None

    def _count(self, profile: torch.profiler.profile) -> None:
        events = list(profile.events() or ())
        until = max(event.time_range.start for event in events if event.name == STOPPED)
        for event in events:
            is_sync = event.name.startswith("cuda") and "Synchronize" in event.name
            if is_sync and event.time_range.start < until:
                self.places[event.name] += 1


def main() -> int:
    """Run a fit and print what synchronises; return 1 if torch reported anything."""
    from clipkit.training import MetricsCsv
    from clipkit.training.callbacks import ProgressBar, StepGuard, Throughput, Watchdog
    from tests.helpers import tiny

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", action="store_true", help="with a label loss")
    parser.add_argument("--profiler", action="store_true", help="count with torch.profiler")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    record = ProfileSyncs() if args.profiler else RecordSyncs()
    if isinstance(record, RecordSyncs):
        warnings.simplefilter("always")
        warnings.showwarning = record.note
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        callbacks = [ProgressBar(), Throughput(), StepGuard(), Watchdog(), record]
        trainer = tiny.trainer(
            folder, *callbacks, accelerator="cpu" if args.device == "cpu" else "gpu",
            max_steps=LAST + 2, precision="bf16-mixed",
            log_every_n_steps=LOG_EVERY, logger=MetricsCsv(str(folder)), gradient_clip_val=1.0,
            enable_progress_bar=True,
        )  # fmt: skip
        source = tiny.shards(folder / "data", counts=(90, 70))
        module = tiny.module(labels=args.labels)
        module._build_optimizer = lambda groups: torch.optim.AdamW(groups, fused=True)
        trainer.fit(module, datamodule=tiny.data(source))
    steps = LAST - FIRST
    print(
        json.dumps(
            {
                "labels": args.labels,
                "counted_by": "profiler" if args.profiler else "sync_debug_mode",
                "steps": steps,
                "syncs_per_step": sum(record.places.values()) / steps,
                "places": dict(record.places.most_common()),
            }
        )
    )
    return int(isinstance(record, RecordSyncs) and bool(record.places))


if __name__ == "__main__":
    sys.exit(main())
