"""Hard negatives: candidates of all ranks, drawn by their similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.losses.joint.draws import mix, uniform
from clipkit.losses.kernels.attach import without_autograd

_ROWS: Final = 256
"""Rows of similarities that are held at a time."""


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """What decides which samples are positives of each other.

    Args:
        ids: Number of each sample.
        groups: Samples with the same non-negative number match.
        captions: Hash of the caption: samples with equal captions match.
        valid: Whether the sample has both modalities, and they belong together.
    """

    ids: Int64[Tensor, " N"]
    groups: Int64[Tensor, " N"]
    captions: Int64[Tensor, " N"]
    valid: Bool[Tensor, " N"]

    def stacked(self) -> Int64[Tensor, "N 4"]:
        """Return all facts in one tensor, for an exchange."""
        return torch.stack([self.ids, self.groups, self.captions, self.valid.long()], dim=1)

    @staticmethod
    def of_stacked(rows: Int64[Tensor, "N 4"]) -> SampleFacts:
        """Return the facts of ``stacked``."""
        ids, groups, captions, valid = rows.unbind(1)
        return SampleFacts(ids, groups, captions, valid.bool())


class Drawn(NamedTuple):
    """One negative per sample.

    Attributes:
        rows: Its position among the candidates; any where there is none.
        exists: Whether the sample has a negative.
    """

    rows: Int64[Tensor, " B"]
    exists: Bool[Tensor, " B"]


def draw_negatives(
    queries: Float[Tensor, "B D"],
    candidates: Float[Tensor, "N D"],
    scale: Float[Tensor, ""],
    own: SampleFacts,
    everyone: SampleFacts,
    keys: Int64[Tensor, " B"],
) -> Drawn:
    """Draw a negative for each sample, with the probability of its similarity.

    Candidate j of sample i has a probability proportional to exp(scale * q_i . c_j), as in ALBEF
    (Li et al. 2021, arXiv:2107.07651, section 3.2), and 0 if the two match. The draw is the argmax
    of logit + Gumbel noise, whose numbers belong to the two samples: it does not depend on the
    order of the candidates, nor on the rank.

    Args:
        queries: Unit-norm embeddings of this rank's samples.
        candidates: Unit-norm embeddings of the other modality, of the samples of all ranks.
        scale: Inverse temperature, linear.
        own: Facts of this rank's samples.
        everyone: Facts of the samples of all ranks.
        keys: Key of each of this rank's samples; see ``sample_keys``.
    """
    rows, exists = [], []
    numbers = mix(everyone.ids)
    with without_autograd(queries.device):  # half precision would make draws depend on shapes
        for start in range(0, len(queries), _ROWS):
            part = slice(start, start + _ROWS)
            allowed = everyone.valid & own.valid[part, None]
            allowed = allowed & ~_match(own, everyone, part)
            logits = scale * (queries[part] @ candidates.T)
            noise = -torch.log(-torch.log(uniform(keys[part, None] ^ numbers)))
            noisy = (logits + noise).masked_fill(~allowed, -torch.inf)
            rows.append(noisy.argmax(dim=1))
            exists.append(allowed.any(dim=1))
    if not rows:
        return Drawn(keys, own.valid)
    return Drawn(torch.cat(rows), torch.cat(exists))


def _match(own: SampleFacts, everyone: SampleFacts, part: slice) -> Bool[Tensor, "rows N"]:
    groups = own.groups[part, None]
    return (
        (own.ids[part, None] == everyone.ids)
        | (own.captions[part, None] == everyone.captions)
        | ((groups == everyone.groups) & (groups >= 0))
    )
