"""Let momentum teachers follow the encoder after each optimizer step."""

from __future__ import annotations

from typing import Any, final

from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from clipkit.losses import CombinedLoss, update_teachers
from clipkit.training.lightning_compat import encoder_of, is_accumulating


@final
class FollowTeachers(Callback):
    """Updates the teachers of the objective, before a checkpoint of the step is saved.

    ``ContrastiveModule`` adds this callback.

    Attributes:
        left_out: Set by ``StepGuard`` before each optimizer step: 1 on the device if the step is
            skipped, which leaves the teachers as they are.
    """

    def __init__(self) -> None:
        self.left_out: Float[Tensor, ""] | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Update the teachers after every optimizer step."""
        if not is_accumulating(trainer):
            assert isinstance(pl_module.loss, CombinedLoss)
            update_teachers(pl_module.loss, encoder_of(pl_module), self.left_out)
            self.left_out = None
