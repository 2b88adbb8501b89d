"""Matching: whether two modalities belong together, against hard negatives of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from clipkit.distributed.collectives import gather_rows, gather_sizes
from clipkit.distributed.row_requests import RowRequests, first_row
from clipkit.errors import ConfigError
from clipkit.losses.joint.draws import caption_hashes, sample_keys, sample_numbers
from clipkit.losses.joint.fused_rows import (
    Tokens,
    at_least_float32,
    checked_micro_batch,
    complete_samples,
    in_micro_batches,
    joint_of,
    padded_tokens,
    tokens_of,
)
from clipkit.losses.joint.negatives import Drawn, SampleFacts, draw_negatives
from clipkit.losses.term import LossTerm, Term, mean_over_ranks
from clipkit.token_sequences import TokenSequence
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

    def __init__(
        self,
        first: str = "image",
        second: str = "text",
        micro_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if first == second:
            raise ConfigError(f"MatchingLoss: expected two modalities, got {first!r} twice")
        self.first, self.second = first, second
        self.modalities, self.reads_captions = (first, second), "text" in (first, second)
        self.micro_batch_size = checked_micro_batch(micro_batch_size)
        self.seed = seed

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder that does not fuse the two modalities."""
        names = joint_of(embeddings, "MatchingLoss").fused_names
        for name in (self.first, self.second):
            if name not in names:
                raise ConfigError(
                    f"MatchingLoss: expected modalities that are fused ({', '.join(names)}), got "
                    f"{name!r}"
                )

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the samples of all ranks."""
        self.check(embeddings)
        joint = joint_of(embeddings, "MatchingLoss")
        tokens = tokens_of(embeddings, joint, "MatchingLoss")
        valid = complete_samples(embeddings, batch, joint)
        wrong = self._negatives(embeddings, batch, tokens, valid)
        others = {name: tokens[name] for name in joint.fused_names}
        pairs = [others, {**others, self.first: wrong.first}, {**others, self.second: wrong.second}]

        def losses(rows: slice) -> Float[Tensor, "rows 3"]:
            logits = [
                joint.match(joint.fuse({name: one.rows(rows) for name, one in pair.items()}).pooled)
                for pair in pairs
            ]
            values = at_least_float32(torch.stack(logits, dim=1))
            return F.softplus(torch.cat([-values[:, :1], values[:, 1:]], dim=1))

        parts = list(in_micro_batches(losses, valid, self.micro_batch_size))
        counts = torch.stack([valid, wrong.has_first, wrong.has_second], dim=1)
        total = torch.where(counts, torch.cat(parts), 0.0).sum()
        return mean_over_ranks(total, counts.sum(), valid.sum())

    def _negatives(
        self, embeddings: Embeddings, batch: Batch | None, tokens: Tokens, valid: Tensor
    ) -> _Negatives:
        """Draw a negative of each modality for each sample, and fetch their tokens."""
        first, _ = embeddings.of(self.first)
        second, _ = embeddings.of(self.second)
        lengths = [tokens[name].values.shape[1] for name in (self.first, self.second)]
        shapes = gather_sizes(len(valid), *lengths, device=valid.device)
        sizes = [count for count, *_ in shapes]
        own = self._facts(batch, tokens, valid, first_row(sizes))
        everyone = SampleFacts.of_stacked(gather_rows(own.stacked(), sizes))
        scale = embeddings.scale_of(self.first, self.second).detach()
        drawn = []
        for counter, (queries, candidates) in enumerate(((second, first), (first, second))):
            keys = sample_keys(batch, own.ids, self.seed, counter)
            rows = gather_rows(candidates, sizes)
            drawn.append(draw_negatives(queries, rows, scale, own, everyone, keys))
        _, *of_ranks = zip(*shapes, strict=True)
        return _Negatives(
            _fetched(tokens[self.first], drawn[0], sizes, of_ranks[0]),
            drawn[0].exists,
            _fetched(tokens[self.second], drawn[1], sizes, of_ranks[1]),
            drawn[1].exists,
        )

    def _facts(self, batch: Batch | None, tokens: Tokens, valid: Tensor, start: int) -> SampleFacts:
        ids = sample_numbers(batch, len(valid), start, valid.device)
        groups = None if batch is None else batch.groups
        is_text = "text" in (self.first, self.second)
        if batch is not None and batch.tokens is not None and is_text:
            captions = caption_hashes(batch.tokens, tokens["text"].mask)
        else:
            captions = ids
        return SampleFacts(
            ids, torch.full_like(ids, -1) if groups is None else groups, captions, valid
        )


class _Negatives(NamedTuple):
    first: TokenSequence
    has_first: Tensor
    second: TokenSequence
    has_second: Tensor


def _fetched(
    sequence: TokenSequence, drawn: Drawn, sizes: Sequence[int], lengths: Sequence[int]
) -> TokenSequence:
    """Return the tokens of drawn samples, from the ranks that have them.

    Args:
        sequence: Tokens of this rank's samples.
        drawn: Drawn samples.
        sizes: Number of samples of each rank.
        lengths: Number of tokens of a sample on each rank.
    """
    requests = RowRequests(drawn.rows, sizes)
    if sequence.mask is None and len(set(lengths)) == 1:
        return TokenSequence(requests.fetch(sequence.values))
    padded = padded_tokens(sequence, max(lengths))
    assert padded.mask is not None, "padded_tokens returns one"
    mask = requests.fetch(padded.mask.to(torch.uint8)).bool()
    return TokenSequence(requests.fetch(padded.values), mask)
