"""Host-device synchronisations of training steps on a GPU, with the line that makes each.

A complete `Trainer.fit` runs with the callbacks of configs/trainer/gpu.yaml; steps that are logged
are left out. torch reports a synchronisation as a warning, with which its line is found, but knows
only its own; `--profiler` counts those of the CUDA runtime instead. `StepGuard` waits for the
verdict of two steps before if the GPU is so far behind that it is not there; this is counted apart.
Prints a line of JSON, and returns 1 if anything else synchronises::

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Callback

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from clipkit.training import MetricsCsv  # noqa: E402
from clipkit.training.callbacks import step_guard  # noqa: E402
from tests.helpers import tiny  # noqa: E402
from tests.helpers.host_reads import gpu_callbacks  # noqa: E402

FIRST, LAST, LOG_EVERY = 6, 16, 1000
STOPPED = "end of the counted steps"
OLD_VERDICT = "a verdict of two steps before"


def short(path: str) -> str:
    """A path below this repository or the installed packages."""
    return path.rsplit("site-packages/", 1)[-1].removeprefix(f"{ROOT}/")


class RecordSyncs(Callback):
    """Switches torch's reports on for some steps."""

    def __init__(self) -> None:
        self.places: collections.Counter[str] = collections.Counter()
        self.old_verdicts = 0  # waits for events are not reported

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
        self.old_verdicts = 0
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
        self.count(list(profile.events() or ()))

    def count(self, events: list[Any]) -> None:
        """Count the synchronisations among the events of a profile."""
        until = max(event.time_range.start for event in events if event.name == STOPPED)
        known = [event.time_range for event in events if event.name == OLD_VERDICT]
        for event in events:
            is_sync = event.name.startswith("cuda") and "Synchronize" in event.name
            start = event.time_range.start
            if not is_sync or start >= until:
                continue
            if any(span.start <= start <= span.end for span in known):
                self.old_verdicts += 1
            else:
                self.places[event.name] += 1


@contextmanager
def named_verdicts() -> Iterator[None]:
    """Name the waits of `StepGuard` in a profile."""
    real = step_guard._Arriving.values

    def values(arriving: Any) -> list[float]:
        with torch.profiler.record_function(OLD_VERDICT):
            return real(arriving)

    with patch.object(step_guard._Arriving, "values", values):
        yield


def main() -> int:
    """Run a fit and print what synchronises; return 1 if anything does that must not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", action="store_true", help="with a label loss")
    parser.add_argument("--profiler", action="store_true", help="count with torch.profiler")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    record = ProfileSyncs() if args.profiler else RecordSyncs()
    if isinstance(record, RecordSyncs):
        warnings.simplefilter("always")
        warnings.showwarning = record.note
    with tempfile.TemporaryDirectory() as name, named_verdicts():
        folder = Path(name)
        callbacks = [*gpu_callbacks(), record]
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
                "waits_for_old_verdicts": record.old_verdicts,
            }
        )
    )
    return int(bool(record.places))


if __name__ == "__main__":
    sys.exit(main())
