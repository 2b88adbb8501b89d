"""Keep the stream's cursor and Lightning's counters of batches consistent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from clipkit.training.lightning_compat import is_accumulating, rewrite_progress, set_epoch_length
from clipkit.training.progress.epoch_steps import limit_batches
from clipkit.training.progress.run_progress import pair_data
from clipkit.types import Batch


@final
class CursorCommit(Callback):
    """Moves the cursor past a batch after it was trained on, so that a run resumes exactly there.

    ``ContrastiveModule`` adds this callback. Lightning counts a batch as consumed when it
    is fetched, discards its position at the end of an epoch, and cannot know how many batches the
    cursor means on another number of ranks. When a run is resumed, Lightning's counters are
    therefore set from the stream's cursor.

    The batches of a window of accumulated gradients count when its step is taken: a run that is
    interrupted inside a window repeats it.
    """

    def __init__(self) -> None:
        self._window: list[Mapping[str, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the window in which an earlier fit was interrupted."""
        self._window.clear()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the stream's epoch; Lightning calls this only at the start of an epoch."""
        if (data := pair_data(trainer)) is not None:
            data.begin_epoch(trainer.current_epoch)
            if data.train_stream.partition.varies:
                limit = trainer.limit_train_batches
                set_epoch_length(trainer, limit_batches(data.batches_per_epoch, limit))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Move the cursor past the batches of a window after its step."""
        if (data := pair_data(trainer)) is None:
            return
        assert batch.cursor is not None
        self._window.append(batch.cursor)
        if not is_accumulating(trainer):
            data.commit(replace(batch, cursor=merge_cursors(self._window)))
            self._window.clear()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the workers of a validation over some of its batches, also of the sanity check."""
        if (data := pair_data(trainer)) is not None:
            data.end_validation()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set Lightning's counters from the cursor; Lightning restores its state after this."""
        data = pair_data(trainer)
        if trainer.state.fn != TrainerFn.FITTING or data is None or "loops" not in checkpoint:
            return
        epoch, done, num_batches = data.position()
        last = limit_batches(num_batches, trainer.limit_train_batches)
        if done >= last:
            epoch, done = epoch + 1, 0
        # Lightning adds the step of the last batch if it sees a restart within an epoch.
        restarts = done > 0 or trainer.max_steps != -1
        adds_step = restarts and done % trainer.accumulate_grad_batches == 0
        steps_to_log = checkpoint["global_step"] - int(adds_step)
        rewrite_progress(checkpoint["loops"]["fit_loop"], epoch, done, steps_to_log)


def merge_cursors(cursors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the cursors of consecutive batches: the last position, and the sums of the counters.

    Examples:
        >>> merge_cursors([{"position": 4, "dropped": 1, "padded": 0},
        ...         {"position": 8, "dropped": 0, "padded": 2}])
        {'position': 8, 'dropped': 1, 'padded': 2}
    """
    counted = {name: sum(int(one[name]) for one in cursors) for name in ("dropped", "padded")}
    return {**cursors[-1], **counted}
