"""Log the keys of all samples that were trained on."""

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
    """Writes ``step rank key`` for every sample that is trained on, one per line.

    ``step`` is the optimizer step of the sample, from 1. A resumed run first removes the lines
    after the step that it resumes from, whose samples are trained on again, so that the file lists
    exactly the samples behind the weights. A new run replaces the file. A full disk delays lines
    and does not end the run.

    Args:
        path: File, to which all ranks append, once per batch.

    Examples:
        >>> trainer = Trainer(callbacks=[KeyLog("runs/keys.txt")])
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._log = BufferedLineLog(self.path)
        self._begun = False

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Keep the lines of completed steps, and remove the others.

        Not earlier: a run that is refused before its first batch leaves the file as it was.
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
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Append the batch's keys."""
        # Inside a window of accumulated gradients the step is not complete.
        step = trainer.global_step + is_accumulating(trainer)
        self._log.append("".join(f"{step} {trainer.global_rank} {key}\n" for key in batch.keys))

    def on_train_end(self, *_: Any) -> None:
        """Write lines that wait for space on the disk."""
        self._log.close()

    def on_exception(self, *_: Any) -> None:
        """Write lines that wait for space on the disk."""
        self._log.close()


def _step(line: str) -> float:
    """Return the step of a line; infinite for an incomplete one, so that it is removed."""
    parts = line.split(" ", 2)
    return int(parts[0]) if len(parts) == 3 and parts[0].isdigit() else float("inf")
