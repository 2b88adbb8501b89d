"""Pairs of a sample's own and of wrong modalities, whose match a joint encoder scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clipkit.distributed.background import gather_numbers
from clipkit.distributed.collectives import gather_rows
from clipkit.distributed.row_requests import RowRequests, first_row
from clipkit.errors import ConfigError
from clipkit.losses.joint.draws import caption_hashes, sample_keys, sample_numbers
from clipkit.losses.joint.fused_rows import (
    Tokens,
    at_least_float32,
    complete_samples,
    joint_of,
    padded_tokens,
    sizes_of_ranks,
    tokens_of,
)
from clipkit.losses.joint.negatives import Drawn, SampleFacts, draw_negatives
from clipkit.token_sequences import JointStage, TokenSequence
from clipkit.types import Batch, Embeddings


@dataclass(frozen=True, slots=True)
class DrawnPairs:
    """The three pairs of each sample: its own, with a wrong ``first``, and with a wrong ``second``.

    Args:
        names: Names of the modalities ``first`` and ``second``.
        valid: Which samples of this rank have all modalities.
        wrong: Sample that gives the wrong ``first``, and the wrong ``second``.
        sizes: Number of samples of each rank.
    """

    names: tuple[str, str]
    valid: Bool[Tensor, " B"]
    wrong: tuple[Drawn, Drawn]
    sizes: Sequence[int]

    @property
    def counted(self) -> Bool[Tensor, "B 3"]:
        """Which of the pairs exist."""
        return torch.stack([self.valid, *(drawn.exists for drawn in self.wrong)], dim=1)

    def tokens(self, own: Tokens) -> list[Tokens]:
        """Return the tokens of the three pairs; wrong ones come from the ranks that have them.

        Args:
            own: Tokens of this rank's samples, of one encoder.
        """
        lengths = [own[name].values.shape[1] for name in self.names]
        of_ranks = zip(*gather_numbers(*lengths), strict=True)
        wrong = [
            {name: _fetched(own[name], drawn, self.sizes, every)}
            for name, drawn, every in zip(self.names, self.wrong, of_ranks, strict=True)
        ]
        return [own, *({**own, **part} for part in wrong)]


def check_names(first: str, second: str, term: str) -> tuple[str, str]:
    """Return the names of two modalities; refuse equal ones."""
    if first == second:
        raise ConfigError(f"{term}: expected two modalities, got {first!r} twice")
    return first, second


def check_pair(embeddings: Embeddings, names: tuple[str, str], term: str) -> None:
    """Refuse an encoder that does not fuse the two modalities."""
    fused = joint_of(embeddings, term).fused_names
    for name in names:
        if name not in fused:
            raise ConfigError(
                f"{term}: expected modalities that are fused ({', '.join(fused)}), got {name!r}"
            )


def draw_pairs(
    embeddings: Embeddings, batch: Batch | None, names: tuple[str, str], seed: int, term: str
) -> DrawnPairs:
    """Draw a hard negative of each modality for each sample; see ``MatchingLoss``.

    Args:
        embeddings: Output of the encoder for this rank's batch.
        batch: This rank's batch.
        names: Names of the modalities ``first`` and ``second``.
        seed: Seed of the draws.
        term: Name of the term, for errors.
    """
    joint = joint_of(embeddings, term)
    tokens = tokens_of(embeddings, joint, term)
    valid = complete_samples(embeddings, batch, joint)
    (first, _), (second, _) = (embeddings.of(name) for name in names)
    sizes = sizes_of_ranks(batch, len(valid))
    own = _facts(batch, tokens, valid, first_row(sizes), names)
    everyone = SampleFacts.of_stacked(gather_rows(own.stacked(), sizes))
    scale = embeddings.scale_of(*names).detach()

    def drawn(counter: int, queries: Tensor, candidates: Tensor) -> Drawn:
        keys = sample_keys(batch, own.ids, seed, counter)
        rows = gather_rows(candidates, sizes)
        return draw_negatives(queries, rows, scale, own, everyone, keys)

    wrong = drawn(0, second, first), drawn(1, first, second)
    return DrawnPairs(names, valid, wrong, sizes)


def pair_logits(
    joint: JointStage, pairs: Sequence[Tokens], rows: slice
) -> Float[Tensor, "rows pairs"]:
    """Return the logits that the modalities of some samples' pairs belong together."""
    fused = [{name: pair[name].rows(rows) for name in joint.fused_names} for pair in pairs]
    logits = [joint.match(joint.fuse(tokens).pooled) for tokens in fused]
    return at_least_float32(torch.stack(logits, dim=1))


def _facts(
    batch: Batch | None, tokens: Tokens, valid: Tensor, start: int, names: tuple[str, str]
) -> SampleFacts:
    ids = sample_numbers(batch, len(valid), start, valid.device)
    groups = None if batch is None else batch.groups
    if batch is not None and batch.tokens is not None and "text" in names:
        captions = caption_hashes(batch.tokens, tokens["text"].mask)
    else:
        captions = ids
    return SampleFacts(ids, torch.full_like(ids, -1) if groups is None else groups, captions, valid)


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
