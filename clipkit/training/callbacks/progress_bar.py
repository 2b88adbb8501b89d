"""Show progress, speed and remaining time of the complete run in one line."""

from __future__ import annotations

import time
from typing import Any, final

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from clipkit.training.progress.run_progress import local_progress

_PLAIN_SECONDS = 10.0
_BAR_SECONDS = 1.0
_SHOWN = {
    "train/loss": "loss {:.3f}",
    "throughput/samples_per_second": "{:.0f} samples/s",
    "throughput/tflops_per_second": "{:.0f} TFLOP/s",
    "throughput/mfu": "MFU {:.0%}",
    "throughput/data_wait_share": "waiting {:.0%}",
}


@final
class ProgressBar(LightningProgressBar):
    """A rich bar over the complete run, which steps, epochs or a time limit end.

    If the output is not a terminal (a log file, CI), it prints a line every ten seconds instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True)
        self._enabled = True
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._printed = 0.0

    def disable(self) -> None:
        """Disable the bar; Lightning calls this on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Enable the bar."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the empty bar."""
        super().on_train_start(trainer, pl_module)
        if not self._enabled or not self._console.is_terminal:
            return
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task("training", total=1.0, figures="")
        self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Move the bar."""
        super().on_train_batch_end(trainer, *args, **kwargs)
        if not self._enabled:
            return
        # Reading a value waits for the GPU, so values are read only when they are shown.
        pause = _PLAIN_SECONDS if self._bar is None else _BAR_SECONDS
        if time.monotonic() - self._printed >= pause:
            self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        self._printed = time.monotonic()
        progress = local_progress(trainer)
        text = f"step {trainer.global_step} {figures(trainer.callback_metrics)}".rstrip()
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.fraction, figures=text)
        else:
            self._console.print(f"training {progress.fraction:.0%} {text}", soft_wrap=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the complete bar on the screen."""
        super().on_train_end(trainer, pl_module)
        if self._bar is not None:
            self._show(trainer)
        self.on_exception()

    def on_exception(self, *_: Any) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self.on_exception()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            self._console.print(*args)


def figures(metrics: Any) -> str:
    """Format the logged values that are shown next to the bar.

    Examples:
        >>> figures({"train/loss": 2.0, "throughput/samples_per_second": 120.4})
        'loss 2.000 · 120 samples/s'
    """
    shown = [form.format(float(metrics[name])) for name, form in _SHOWN.items() if name in metrics]
    return " · ".join(shown)
