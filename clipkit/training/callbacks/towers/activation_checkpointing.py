"""Reduce the memory of activations at the cost of a second forward pass."""

from __future__ import annotations

from typing import Final, Literal, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.errors import check_at_least, check_choice
from clipkit.models.towers.blocks import tower_blocks
from clipkit.training.callbacks.towers.block_wrappers import (
    Recomputed,
    RecomputedBetweenProducts,
    RecomputedBlock,
    recompute_block,
)
from clipkit.training.lightning_compat import encoder_of

Kept = Literal["inputs", "products"]
_KINDS: Final[dict[Kept, type[Recomputed]]] = {
    "inputs": RecomputedBlock,
    "products": RecomputedBetweenProducts,
}


@final
class ActivationCheckpointing(Callback):
    """Keeps few activations of each block, and recomputes the rest in the backward pass.

    This is activation (or gradient) checkpointing: gradients stay the same. If only the input of
    each block is kept, the memory of a tower is that of one block instead of all, and a step takes
    about a third longer. If the results of matrix products, attention and convolutions are also
    kept (selective checkpointing), less memory is saved, and little is computed again.

    Args:
        towers: Names of the towers; None for both.
        every: The first of every ``every`` blocks is recomputed; 1 for all blocks.
        keep: "inputs" to keep the input of a block alone, "products" to keep the results of its
            products, too.

    Raises:
        ConfigError: If ``every`` is not positive, or ``keep`` is unknown.

    Examples:
        >>> trainer = Trainer(callbacks=[ActivationCheckpointing(["image_tower"])])
    """

    def __init__(
        self, towers: list[str] | None = None, every: int = 1, keep: Kept = "inputs"
    ) -> None:
        check_at_least("ActivationCheckpointing.every", every, 1)
        check_choice("ActivationCheckpointing.keep", keep, tuple(_KINDS))
        self.towers: list[str] = towers or ["image_tower", "text_tower"]
        self.every = every
        self.keep = keep
        self._done = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Change the blocks before a fit."""
        if stage != "fit" or self._done:
            return
        self._done = True
        for name in self.towers:
            for block in tower_blocks(encoder_of(pl_module).tower_named(name))[:: self.every]:
                recompute_block(block, _KINDS[self.keep])
