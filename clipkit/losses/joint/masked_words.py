"""Masked language modelling: predict masked words from the others and from the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from clipkit.losses.joint.fused_rows import (
    at_least_float32,
    checked_micro_batch,
    in_micro_batches,
    joint_of,
    tokens_of,
)
from clipkit.losses.joint.masking import WordMasking, chosen_places, chosen_states
from clipkit.losses.term import FusedPasses, LossTerm, Term, mean_over_ranks
from clipkit.types import Batch, Embeddings


@final
class MaskedWordLoss(LossTerm):
    """Cross-entropy of masked words, predicted from the caption's other words and the image (MLM).

    As in ALBEF (Li et al. 2021, arXiv:2107.07651, section 3.2): the text tower reads the masked
    caption in a second pass, whose tokens are fused with those of the image. The value is the mean
    over the chosen tokens of all ranks, and 0 in a step without any. Choices belong to the sample
    and the step, so that they do not depend on the number of ranks.

    Args:
        mask_id: Token id of masked words: [MASK] of a BERT vocabulary (103 of bert-base-uncased);
            for CLIP's, which has none, that of a word that captions do not have, such as 49405.
        special_ids: Token ids that are never masked, nor taken as a random word: padding, start,
            end and separators (0, 49406 and 49407 of CLIP's vocabulary; 0, 101 and 102 of
            bert-base-uncased).
        probability: Probability of a token to be chosen.
        micro_batch_size: Samples whose activations are in memory at a time, computed again in the
            backward pass; null for all at once.
        seed: Seed of the choices.

    Raises:
        ConfigError: If the probability is not between 0 and 1, or the encoder does not fuse texts
            or has no word head.
    """

    modalities = ("text",)
    reads_fused = True

    def __init__(
        self,
        mask_id: int,
        special_ids: Sequence[int],
        probability: float = 0.15,
        micro_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.masking = WordMasking(mask_id, special_ids, probability, seed, "MaskedWordLoss")
        self.passes = FusedPasses(fusions=1, texts=1, words=probability)
        self.micro_batch_size = checked_micro_batch(micro_batch_size)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder that cannot predict words, and ids beyond its vocabulary."""
        self.masking.check(joint_of(embeddings, "MaskedWordLoss"))

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the chosen tokens of all ranks."""
        joint = joint_of(embeddings, "MaskedWordLoss")
        masked = self.masking.masked(embeddings, batch)
        tokens = tokens_of(embeddings, joint, "MaskedWordLoss")
        places = chosen_places(masked.chosen, self.micro_batch_size)

        def losses(rows: slice) -> Float[Tensor, " 1"]:
            own = places[rows.start]
            states = chosen_states(joint, tokens, masked, rows, own)
            logits = at_least_float32(joint.predict_words(states))
            expected = masked.targets[rows][own]
            return F.cross_entropy(logits, expected, reduction="sum")[None]

        parts = list(in_micro_batches(losses, masked.chosen, self.micro_batch_size))
        count = masked.chosen.sum()
        return mean_over_ranks(torch.cat(parts).sum(), count, count)
