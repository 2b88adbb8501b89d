"""A tower that does not learn, or only in its last layers."""

from __future__ import annotations

from typing import Literal, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.models import DualEncoder
from clipkit.models.freezing import lock


@final
class LockTower(Callback):
    """Locks a tower for the whole fit: LiT (Zhai et al. 2022), or fine-tuning of the last layers.

    Args:
        tower: Which one.
        unlocked_groups: Layer groups, counted from the output, that go on learning.

    Example:
        >>> trainer = Trainer(callbacks=[LockTower("image_tower")])
    """

    def __init__(
        self, tower: Literal["image_tower", "text_tower"], unlocked_groups: int = 0
    ) -> None:
        self.tower = tower
        self.unlocked_groups = unlocked_groups

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Lock it before the optimizer collects what learns."""
        if stage == "fit":
            encoder = pl_module.encoder
            assert isinstance(encoder, DualEncoder), "LockTower belongs to ContrastiveModule"
            lock(getattr(encoder, self.tower), self.unlocked_groups)
