"""Reduce the memory of activations at the cost of a second forward pass."""

from __future__ import annotations

from typing import Literal, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.errors import check_at_least
from clipkit.models.towers.blocks import tower_blocks
from clipkit.training.callbacks.towers.block_wrappers import recompute_block
from clipkit.training.lightning_compat import encoder_of

TowerName = Literal["image_tower", "text_tower"]


@final
class ActivationCheckpointing(Callback):
    """Keeps only the input of each block, and recomputes the rest in the backward pass.

    This is activation (or gradient) checkpointing: gradients stay the same, the memory of a tower
    is that of one block instead of all, and a step takes about a third longer.

    Args:
        towers: Names of the towers; None for both.
        every: The first of every ``every`` blocks is recomputed; 1 for all blocks.

    Raises:
        ConfigError: If ``every`` is not positive.

    Examples:
        >>> trainer = Trainer(callbacks=[ActivationCheckpointing(["image_tower"])])
    """

    def __init__(self, towers: list[TowerName] | None = None, every: int = 1) -> None:
        check_at_least("ActivationCheckpointing.every", every, 1)
        self.towers: list[TowerName] = towers or ["image_tower", "text_tower"]
        self.every = every
        self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Change the blocks before a fit."""
        if stage != "fit" or self._done:
            return
        self._done = True
        for name in self.towers:
            for block in tower_blocks(getattr(encoder_of(pl_module), name))[:: self.every]:
                recompute_block(block)
