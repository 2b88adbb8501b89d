"""Replace an earlier run in the same folder."""

from __future__ import annotations

from typing import Any, final

from lightning.pytorch import Callback, Trainer

from clipkit.training.callbacks.run_folder import remove_run
from clipkit.training.callbacks.save_checkpoint import checkpoint_folders


@final
class ReplaceRun(Callback):
    """Removes the checkpoints and logs of an earlier run at the first batch.

    ``clipkit fit --overwrite`` has this callback. A run that is refused, or interrupted before it
    trains, leaves the earlier one as it was.

    Examples:
        >>> trainer = Trainer(callbacks=[ReplaceRun()])
    """

    def __init__(self) -> None:
        self._done = False

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Remove the files on rank 0, before any rank writes."""
        if self._done:
            return
        self._done = True
        if trainer.is_global_zero:
            remove_run(checkpoint_folders(trainer))
        trainer.strategy.barrier("ReplaceRun")
