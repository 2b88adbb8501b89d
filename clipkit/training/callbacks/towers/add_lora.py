"""Fine-tuning by low-rank adapters."""

from __future__ import annotations

from typing import final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.models.lora import add_lora, lora_entry
from clipkit.training.lightning_compat import encoder_of


@final
class AddLora(Callback):
    """Trains low-rank adapters (LoRA) instead of the towers' weights.

    Checkpoints contain weights and adapters; ``load_encoder``, and with it ``clipkit export`` and
    ``clipkit evaluate``, merges them. Needs ``pip install 'clipkit[lora]'``.

    Args:
        towers: Names of the towers with adapters; None for those of images and texts.
        rank: Rank of the products.
        alpha: Factor of the products, before division by the rank.
        dropout: Share of the adapters' inputs that is dropped; not used for torch's attention, as
            in open_clip.

    Examples:
        >>> trainer = Trainer(callbacks=[AddLora(rank=8)])
    """

    def __init__(
        self,
        towers: list[str] | None = None,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
    ) -> None:
        self.towers: list[str] = towers or ["image_tower", "text_tower"]
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add the adapters before the optimizer is built or a checkpoint is read."""
        encoder = encoder_of(pl_module)
        for name in self.towers:
            if name not in lora_entry(encoder):
                add_lora(encoder.tower_named(name), self.rank, self.alpha, self.dropout)
