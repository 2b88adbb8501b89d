"""Host-device synchronisations of training steps on a GPU, with the line that makes each.

A whole `Trainer.fit` runs with the callbacks of configs/trainer/gpu.yaml; steps that are logged
are left out. torch reports a synchronisation as a warning. Prints JSON::

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


def short(path: str) -> str:
    """A path below this repository or the installed packages."""
    return path.rsplit("site-packages/", 1)[-1].removeprefix(f"{ROOT}/")


class RecordSyncs(Callback):
    """Switches torch's reports on for some steps."""

    def __init__(self) -> None:
        self.places: collections.Counter[str] = collections.Counter()

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Switch the reports on."""
        if trainer.global_step == FIRST:
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Switch the reports off after the last step."""
        if trainer.global_step == LAST:
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


def main() -> None:
    """Run a fit and print what synchronises."""
    from clipkit.training import MetricsCsv
    from clipkit.training.callbacks import ProgressBar, StepGuard, Throughput, Watchdog
    from tests.helpers import tiny

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", action="store_true", help="with a label loss")
    args = parser.parse_args()
    record = RecordSyncs()
    warnings.simplefilter("always")
    warnings.showwarning = record.note
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        callbacks = [ProgressBar(), Throughput(), StepGuard(), Watchdog(), record]
        trainer = tiny.trainer(
            folder, *callbacks, accelerator="gpu", max_steps=LAST + 2, precision="bf16-mixed",
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
                "steps": steps,
                "syncs_per_step": sum(record.places.values()) / steps,
                "places": dict(record.places.most_common()),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
