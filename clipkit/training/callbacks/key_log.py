"""A record of every sample that was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.atomic_files import write_text
from clipkit.line_log import BufferedLineLog
from clipkit.training.lightning_compat import is_accumulating
from clipkit.types import Batch


@final
class KeyLog(Callback):
    """Writes ``step rank key`` for every sample trained on, one a line.

    ``step`` is the optimizer step, from 1, that the sample took part in. A resumed run first drops
    the lines after the step it resumes from: those samples are trained on again, so the file
    always tells what the weights have seen. A new run starts the file anew. A full disk delays
    lines, and ends no run.

    Args:
        path: The file; all ranks append to it, a batch at a time.

    Examples:
        >>> trainer = Trainer(callbacks=[KeyLog("runs/keys.txt")])
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._log = BufferedLineLog(self.path)
        self._begun = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the lines of the steps that are behind; drop the rest.

        Not before the first batch: a run that is refused until then leaves the file as it was.
        """
        if self._begun:
            return
        self._begun = True
        if trainer.is_global_zero:
            lines = self.path.read_text().splitlines() if self.path.exists() else []
            kept = [line for line in lines if _step(line) <= trainer.global_step]
            write_text(self.path, "".join(f"{line}\n" for line in kept))
        trainer.strategy.barrier("KeyLog")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Append the batch's keys."""
        # Inside a window of accumulated gradients the step is still to come.
        step = trainer.global_step + is_accumulating(trainer)
        rank = trainer.global_rank
        text = "".join(f"{step} {rank} {key}\n" for key in batch.keys)
        self._log.append(text)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what still waits for room on the disk."""
        self._log.close()

    def on_exception(self, *_: Any) -> None:
        """As at the end."""
        self._log.close()


def _step(line: str) -> float:
    """The step of a line; infinite for a half-written one, so that it is dropped."""
    parts = line.split(" ", 2)
    return int(parts[0]) if len(parts) == 3 and parts[0].isdigit() else float("inf")
