"""The whole objective: a weighted sum of named terms."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.losses.term import LossTerm
from clipkit.types import Batch, Embeddings


@final
class CombinedLoss(nn.Module):
    """``contrastive_weight * contrastive + label_weight * label``.

    A term whose weight is 0 is still computed and stays in the graph: DDP wants a gradient for
    every parameter.

    Args:
        contrastive: A loss over pairs.
        label: A loss over labels.
        contrastive_weight: Its factor.
        label_weight: Its factor.

    Raises:
        ConfigError: If a weight is negative or its term is missing.

    Example:
        >>> from clipkit.losses import ContrastiveLoss
        >>> same = torch.eye(4)
        >>> batch = Batch(torch.zeros(4, 3, 1, 1, dtype=torch.uint8), torch.zeros(4, 1).long(),
        ...               torch.full((4,), -100), tuple("abcd"))
        >>> terms = CombinedLoss(ContrastiveLoss())(
        ...     Embeddings(same, same, torch.tensor(100.0)), batch)
        >>> terms["loss"].item(), terms["contrastive_num_samples"].item()
        (0.0, 4.0)
    """

    def __init__(
        self,
        contrastive: LossTerm,
        label: LossTerm | None = None,
        contrastive_weight: float = 1.0,
        label_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if label is None and label_weight:
            raise ConfigError(f"label_weight: expected 0 without a label loss, got {label_weight}")
        for name, weight in (
            ("contrastive_weight", contrastive_weight),
            ("label_weight", label_weight),
        ):
            if weight < 0:
                raise ConfigError(f"{name}: expected 0 or more, got {weight}")
        self.contrastive = contrastive
        self.label = label
        self.contrastive_weight = contrastive_weight
        self.label_weight = label_weight

    def forward(self, embeddings: Embeddings, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Every term by name.

        Args:
            embeddings: What the encoder made of this rank's batch.
            batch: This rank's batch.

        Returns:
            ``loss`` is what to differentiate. For every term NAME: ``NAME`` (raw),
            ``NAME_weighted`` and ``NAME_num_samples`` (of all ranks), all three for logging.
        """
        weighted = {"contrastive": (self.contrastive, self.contrastive_weight)}
        if self.label is not None:
            weighted["label"] = (self.label, self.label_weight)
        values: dict[str, Tensor] = {}
        total = torch.zeros((), device=embeddings.image.device)
        for name, (loss, weight) in weighted.items():
            term = loss.term(embeddings, batch)
            total = total + weight * term.value
            values[name] = term.value.detach()
            values[f"{name}_weighted"] = (weight * term.value).detach()
            values[f"{name}_num_samples"] = term.num_samples
        return {"loss": total, **values}
