"""The right one of several texts for an image, by a joint encoder."""

from __future__ import annotations

from typing import Final, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.losses.joint.fused_rows import (
    at_least_float32,
    checked_micro_batch,
    complete_samples,
    in_micro_batches,
    joint_of,
    tokens_of,
)
from clipkit.losses.term import LossTerm, Term, mean_over_ranks
from clipkit.types import Batch, CandidateBatch, Embeddings

_TERM: Final = "CandidateLoss"


def candidate_losses(
    logits: Float[Tensor, " candidates"], counts: Int64[Tensor, " B"], correct: Int64[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return the cross-entropy of the right candidate of each sample, 0 for a sample without any.

    The softmax is over the candidates of the sample: -log(exp(z_c) / sum_k exp(z_k)).

    Args:
        logits: Logit of each candidate, one sample after the other.
        counts: Number of candidates of each sample.
        correct: Position of the right one among those of its sample; any without candidates.

    Examples:
        >>> logits, counts = torch.tensor([0.0, 0.0, 5.0]), torch.tensor([2, 0, 1])
        >>> candidate_losses(logits, counts, torch.tensor([1, -1, 0]))
        tensor([0.6931, 0.0000, 0.0000])
    """
    owner = owners(counts, len(logits))
    some = counts > 0
    largest = logits.new_full((len(counts),), -torch.inf)
    largest = largest.scatter_reduce(0, owner, logits.detach(), "amax").where(some, 0.0)
    sums = torch.zeros_like(largest).index_add(0, owner, (logits - largest[owner]).exp())
    first = counts.cumsum(0) - counts
    padded = torch.cat([logits, logits.new_zeros(1)])  # also samples without any have a row
    right = padded[torch.where(some, first + correct, len(logits))]
    return torch.where(some, sums.where(some, 1.0).log() + (largest - right), 0.0)


def owners(counts: Int64[Tensor, " B"], num_candidates: int) -> Int64[Tensor, " candidates"]:
    """Return the position of the sample of each candidate, without waiting for a GPU."""
    samples = torch.arange(len(counts), device=counts.device)
    return torch.repeat_interleave(samples, counts, output_size=num_candidates)


@final
class CandidateLoss(LossTerm):
    """Cross-entropy of the right text among the candidates of each sample.

    For the ranking of answers in a visual dialogue (Das et al. 2017, arXiv:1611.08669): the text
    tower reads every candidate of ``batch.candidates`` (``AnswerCandidates``), its tokens are fused
    with those of the image, and the softmax over the matching logits of a sample's candidates is
    compared with the right one. ``MatchingLoss`` takes its negatives from other samples; here they
    are the candidates of the sample itself, as in the evaluation. The value is the mean over the
    samples of all ranks that have candidates, and 0 without any. It trains the same ``matching``
    layer as ``MatchingLoss``.

    Args:
        micro_batch_size: Candidates whose activations are in memory at a time, computed again in
            the backward pass; null for all at once.

    Raises:
        ConfigError: If the encoder does not fuse texts with something else, or the batch has no
            candidates.
    """

    reads_fused = True

    def __init__(self, micro_batch_size: int | None = None) -> None:
        super().__init__()
        self.micro_batch_size = checked_micro_batch(micro_batch_size)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder that does not fuse texts with something else."""
        names = joint_of(embeddings, _TERM).fused_names
        if "text" not in names or len(names) == 1:
            raise ConfigError(
                f"{_TERM}: expected an encoder that fuses texts with images, got one that fuses "
                f"{', '.join(names)}"
            )

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the samples of all ranks."""
        self.check(embeddings)
        if batch is None or batch.candidates is None:
            raise ConfigError(
                f"{_TERM}: expected a batch with candidates, got none; add "
                f"clipkit.data.AnswerCandidates to data.samples.fields"
            )
        joint, given = joint_of(embeddings, _TERM), batch.candidates
        valid = complete_samples(embeddings, batch, joint) & (given.counts > 0)
        if len(given.tokens):
            logits = self._logits(embeddings, given)
            losses = candidate_losses(logits, given.counts, given.correct)
            total = torch.where(valid, losses, 0.0).sum()
        else:  # the same towers get a gradient from CombinedLoss
            total = joint.zero()
        return mean_over_ranks(total, valid.sum(), valid.sum())

    def _logits(
        self, embeddings: Embeddings, given: CandidateBatch
    ) -> Float[Tensor, " candidates"]:
        """Return the matching logit of each candidate with the image of its sample."""
        joint = joint_of(embeddings, _TERM)
        tokens = tokens_of(embeddings, joint, _TERM)
        others = {name: tokens[name] for name in joint.fused_names if name != "text"}
        owner = owners(given.counts, len(given.tokens))

        def logits(rows: slice) -> Float[Tensor, " rows"]:
            parts = {name: one.rows(owner[rows]) for name, one in others.items()}
            read = joint.read_text_tokens(given.tokens[rows])
            return at_least_float32(joint.match(joint.fuse({**parts, "text": read}).pooled))

        return torch.cat(list(in_micro_batches(logits, owner, self.micro_batch_size)))
