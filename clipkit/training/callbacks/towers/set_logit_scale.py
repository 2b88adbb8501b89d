"""A temperature that is given instead of learnt."""

from __future__ import annotations

from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.losses import Schedule
from clipkit.losses.schedules import as_schedule
from clipkit.models import DualEncoder


@final
class SetLogitScale(Callback):
    """Freezes the encoder's scale at a number, or moves it by a schedule over the steps.

    Args:
        scale: Inverse temperature, linear: a number or a schedule of ``clipkit.losses``, a function
            of the optimizer steps that are done, also in a resumed run.

    Examples:
        >>> trainer = Trainer(callbacks=[SetLogitScale(LinearSchedule(10.0, 100.0, 20_000))])
    """

    def __init__(self, scale: float | Schedule) -> None:
        self.scale = as_schedule(scale)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Take the scale from what learns, before the optimizer collects that."""
        if stage == "fit":
            encoder = _encoder(pl_module)
            encoder.set_logit_scale(self.scale(0))
            encoder.log_logit_scale.requires_grad_(False)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Set it for the step."""
        _encoder(pl_module).set_logit_scale(self.scale(trainer.global_step))


def _encoder(pl_module: LightningModule) -> DualEncoder:
    encoder = pl_module.encoder
    assert isinstance(encoder, DualEncoder), "SetLogitScale belongs to ContrastiveModule"
    return encoder
