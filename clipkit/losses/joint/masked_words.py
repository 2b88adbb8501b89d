"""Masked language modelling: predict masked words from the others and from the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from clipkit.distributed.collectives import gather_sizes
from clipkit.distributed.row_requests import first_row
from clipkit.errors import ConfigError
from clipkit.losses.joint.draws import mix, sample_keys, sample_numbers, uniform
from clipkit.losses.joint.fused_rows import (
    at_least_float32,
    checked_micro_batch,
    complete_samples,
    in_micro_batches,
    joint_of,
    tokens_of,
)
from clipkit.losses.term import LossTerm, Term, mean_over_ranks
from clipkit.types import Batch, Embeddings

_SHARE_MASKED: Final = 0.8
_SHARE_RANDOM: Final = 0.1
_COUNTER: Final = 2  # kinds of draws 0 and 1 are those of MatchingLoss


class MaskedTokens(NamedTuple):
    """Token ids of which some are replaced.

    Attributes:
        tokens: Token ids that the text tower reads.
        chosen: Which ids are to be predicted.
    """

    tokens: Int64[Tensor, "B S"]
    chosen: Bool[Tensor, "B S"]


def mask_tokens(
    tokens: Int64[Tensor, "B S"],
    eligible: Bool[Tensor, "B S"],
    keys: Int64[Tensor, " B"],
    words: Int64[Tensor, " words"],
    mask_id: int,
    probability: float = 0.15,
) -> MaskedTokens:
    """Choose tokens, and replace them as BERT does (Devlin et al. 2018, arXiv:1810.04805, 3.1).

    Of the chosen tokens 80 % become ``mask_id``, 10 % a random word, and 10 % stay. Each decision
    is a number of its sample and position.

    Args:
        tokens: Token ids.
        eligible: Which of them may be chosen.
        keys: Key of each sample; see ``sample_keys``.
        words: Token ids that a random word is taken from.
        mask_id: Token id of masked words.
        probability: Probability of an eligible token to be chosen.
    """
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    numbers = [keys[:, None] ^ mix(positions + (part << 32)) for part in range(3)]
    first, second, third = (uniform(number) for number in numbers)
    chosen = eligible & (first < probability)
    drawn = words[(third * len(words)).long().clamp(max=len(words) - 1)]
    masked = tokens.masked_fill(chosen & (second < _SHARE_MASKED), mask_id)
    becomes_random = (second >= _SHARE_MASKED) & (second < _SHARE_MASKED + _SHARE_RANDOM)
    return MaskedTokens(torch.where(chosen & becomes_random, drawn, masked), chosen)


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
        if not 0 < probability < 1:
            raise ConfigError(f"MaskedWordLoss.probability: expected 0 to 1, got {probability}")
        self.mask_id, self.probability, self.seed = mask_id, probability, seed
        self.special_ids = tuple(special_ids)
        self.micro_batch_size = checked_micro_batch(micro_batch_size)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder that cannot predict words, and ids beyond its vocabulary."""
        joint = joint_of(embeddings, "MaskedWordLoss")
        if "text" not in joint.fused_names or joint.vocab_size == 0:
            raise ConfigError(
                "MaskedWordLoss: expected an encoder that fuses texts and has a word_head, got "
                f"one that fuses {', '.join(joint.fused_names)} "
                f"{'with' if joint.vocab_size else 'without'} a word_head"
            )
        if "text" not in joint.returned_names:
            raise ConfigError(
                f"MaskedWordLoss: expected a fusion that returns the tokens of text, got one that "
                f"returns those of {', '.join(joint.returned_names)}; set query: text, or use "
                f"MergedFusion"
            )
        ids = (self.mask_id, *self.special_ids)
        if not all(0 <= number < joint.vocab_size for number in ids):
            raise ConfigError(
                f"MaskedWordLoss: mask_id and special_ids: expected 0 to {joint.vocab_size - 1}, "
                f"got {self.mask_id} and {list(self.special_ids)}"
            )

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the chosen tokens of all ranks."""
        self.check(embeddings)
        if batch is None or batch.tokens is None:
            raise ConfigError("MaskedWordLoss: expected a batch with captions, got none")
        joint = joint_of(embeddings, "MaskedWordLoss")
        tokens = tokens_of(embeddings, joint, "MaskedWordLoss")
        valid = complete_samples(embeddings, batch, joint)
        masked = self._masked(batch, batch.tokens, tokens["text"].mask, valid, joint.vocab_size)
        others = {name: tokens[name] for name in joint.fused_names if name != "text"}
        targets = batch.tokens

        def losses(rows: slice) -> Float[Tensor, " 1"]:
            read = joint.read_text_tokens(masked.tokens[rows])
            parts = {name: one.rows(rows) for name, one in others.items()}
            states = joint.fuse({**parts, "text": read}).tokens["text"]
            chosen = masked.chosen[rows]
            logits = at_least_float32(joint.predict_words(states[chosen]))
            return F.cross_entropy(logits, targets[rows][chosen], reduction="sum")[None]

        parts = list(in_micro_batches(losses, valid, self.micro_batch_size))
        count = masked.chosen.sum()
        return mean_over_ranks(torch.cat(parts).sum(), count, count)

    def _masked(
        self,
        batch: Batch,
        tokens: Int64[Tensor, "B S"],
        mask: Tensor | None,
        valid: Bool[Tensor, " B"],
        vocab_size: int,
    ) -> MaskedTokens:
        """Mask the captions of samples that have everything that is fused."""
        device = tokens.device
        sizes = [count for (count,) in gather_sizes(len(tokens), device=device)]
        ids = sample_numbers(batch, len(tokens), first_row(sizes), device)
        keys = sample_keys(batch, ids, self.seed, _COUNTER)
        special = torch.tensor([*self.special_ids, self.mask_id], device=device)
        words = torch.arange(vocab_size, device=device)
        words = words[~torch.isin(words, special)]
        eligible = ~torch.isin(tokens, special) & valid[:, None]
        if mask is not None:
            eligible = eligible & mask
        return mask_tokens(tokens, eligible, keys, words, self.mask_id, self.probability)
