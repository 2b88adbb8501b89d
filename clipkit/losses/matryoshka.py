"""Contrastive losses of truncated embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.losses.contrastive import PairLoss
from clipkit.losses.term import LossTerm, Term
from clipkit.types import Batch, Embeddings


@final
class MatryoshkaLoss(LossTerm):
    """Mean of a contrastive loss over embeddings truncated to several widths.

    The first components of an embedding then serve as a smaller one (Kusupati et al. 2022,
    arXiv:2205.13147, equation 1 with equal weights). Truncated embeddings are normalised again;
    scale and bias are shared. Time and communication are those of one loss for each width.

    Args:
        loss: ``ContrastiveLoss``, ``LabelAwareContrastiveLoss`` or ``SigmoidLoss``.
        widths: Numbers of components. The complete embedding is only trained if its width is one.

    Raises:
        ConfigError: If there is no width, one is not positive or twice there, or the embeddings
            have fewer components.

    Examples:
        >>> from clipkit.losses import ContrastiveLoss
        >>> same = torch.eye(4)
        >>> loss = MatryoshkaLoss(ContrastiveLoss(), widths=[2, 4])
        >>> loss(Embeddings(same, same, torch.tensor(100.0))).item() > 0  # two rows become 0
        True
    """

    def __init__(self, loss: PairLoss, widths: Sequence[int]) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or len(set(widths)) < len(widths):
            raise ConfigError(
                f"widths: expected different numbers of components of at least 1, got {widths}"
            )
        self.loss, self.widths = loss, tuple(widths)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse embeddings with fewer components than a width, and what the loss refuses."""
        if embeddings.image.shape[1] < max(self.widths):
            raise ConfigError(
                f"widths: the encoder's embeddings have {embeddings.image.shape[1]} components, "
                f"got a width of {max(self.widths)}"
            )
        self.loss.check(embeddings)

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the mean over the widths."""
        self.check(embeddings)
        terms = [self.loss.term(_truncate(embeddings, width), batch) for width in self.widths]
        return Term(torch.stack([term.value for term in terms]).mean(), terms[0].num_samples)


def _truncate(embeddings: Embeddings, width: int) -> Embeddings:
    def cut(rows: Float[Tensor, "B D"] | None) -> Float[Tensor, "B width"] | None:
        if rows is None:
            return None
        precise = rows[:, :width].to(torch.promote_types(rows.dtype, torch.float32))
        return F.normalize(precise, dim=1)

    image = cut(embeddings.image)
    assert image is not None
    return replace(
        embeddings,
        image=image,
        text=cut(embeddings.text),
        negative_image=cut(embeddings.negative_image),
        negative_text=cut(embeddings.negative_text),
    )
