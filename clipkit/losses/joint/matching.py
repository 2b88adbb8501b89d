"""Matching: whether two modalities belong together, against hard negatives of all ranks."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from clipkit.losses.joint.fused_rows import (
    checked_micro_batch,
    in_micro_batches,
    joint_of,
    tokens_of,
)
from clipkit.losses.joint.pairs import check_names, check_pair, draw_pairs, pair_logits
from clipkit.losses.term import FusedPasses, LossTerm, Term, mean_over_ranks
from clipkit.types import Batch, Embeddings


@final
class MatchingLoss(LossTerm):
    """Binary cross-entropy of matching, with one hard negative per sample in each direction (ITM).

    Each sample gives three fused pairs: itself, its ``second`` with a wrong ``first``, and its
    ``first`` with a wrong ``second``. A negative is drawn from the samples of all ranks with a
    probability proportional to exp(scale * cosine), as in ALBEF (Li et al. 2021, arXiv:2107.07651,
    section 3.2). Samples with the same id, the same caption or the same non-negative
    ``batch.groups`` are never negatives of each other. The value is the mean over all pairs, whose
    number is three times that of the samples unless a sample has no negative.

    Draws belong to the sample and the step, so that W ranks draw what one process draws. Only the
    tokens of drawn negatives are exchanged, and their gradients go back to their ranks.

    Args:
        first: Modality whose negatives are drawn by ``second``.
        second: Modality whose negatives are drawn by ``first``.
        micro_batch_size: Samples whose fused activations are in memory at a time, computed again
            in the backward pass; null for all at once.
        seed: Seed of the draws.

    Raises:
        ConfigError: If both are the same, or the encoder does not fuse them.
    """

    reads_fused = True
    passes = FusedPasses(fusions=3)

    def __init__(
        self,
        first: str = "image",
        second: str = "text",
        micro_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.names = self.modalities = check_names(first, second, "MatchingLoss")
        self.reads_captions = "text" in self.names
        self.micro_batch_size = checked_micro_batch(micro_batch_size)
        self.seed = seed

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder that does not fuse the two modalities."""
        check_pair(embeddings, self.names, "MatchingLoss")

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the samples of all ranks."""
        self.check(embeddings)
        joint = joint_of(embeddings, "MatchingLoss")
        drawn = draw_pairs(embeddings, batch, self.names, self.seed, "MatchingLoss")
        pairs = drawn.tokens(tokens_of(embeddings, joint, "MatchingLoss"))

        def losses(rows: slice) -> Float[Tensor, "rows 3"]:
            logits = pair_logits(joint, pairs, rows)
            return F.softplus(torch.cat([-logits[:, :1], logits[:, 1:]], dim=1))

        parts = list(in_micro_batches(losses, drawn.valid, self.micro_batch_size))
        total = torch.where(drawn.counted, torch.cat(parts), 0.0).sum()
        return mean_over_ranks(total, drawn.counted.sum(), drawn.valid.sum())
