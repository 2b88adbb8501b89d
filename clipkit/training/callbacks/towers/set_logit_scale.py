"""A temperature that is set instead of trained."""

from __future__ import annotations

from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.schedules import Schedule, as_schedule
from clipkit.training.lightning_compat import encoder_of
from clipkit.training.progress.run_progress import run_progress
from clipkit.when import START


@final
class SetLogitScale(Callback):
    """Set the encoder's logit scale to a number or a schedule instead of training it.

    Args:
        scale: Inverse temperature, linear: a number, or a schedule over the run.
        pair: Two modalities with a scale of their own, such as "sound:text", whose scale is set;
            None for the scale of all other pairs. Each pair needs a callback.

    Examples:
        >>> trainer = Trainer(callbacks=[SetLogitScale(LinearSchedule(10.0, 100.0, 20_000))])
    """

    def __init__(self, scale: float | Schedule, pair: str | None = None) -> None:
        self.scale = as_schedule(scale)
        self.pair = pair

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze the scale, before the optimizer collects the trainable parameters."""
        if stage == "fit":
            encoder = encoder_of(pl_module)
            encoder.set_logit_scale(self.scale.at(START), self.pair)
            encoder.log_scale_of(self.pair).requires_grad_(False)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Set the scale of the step."""
        encoder_of(pl_module).set_logit_scale(self.scale.at(run_progress(trainer)), self.pair)
