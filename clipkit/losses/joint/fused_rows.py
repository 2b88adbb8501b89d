"""What terms over fused tokens need of embeddings and batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from clipkit.distributed.background import gather_numbers
from clipkit.distributed.collectives import rank, world_size
from clipkit.errors import ConfigError, check_at_least
from clipkit.token_sequences import JointStage, TokenSequence
from clipkit.types import Batch, Embeddings

Tokens = Mapping[str, TokenSequence]
_PAIR: Final = {"image", "text"}


def joint_of(embeddings: Embeddings, term: str) -> JointStage:
    """Return the fusion of embeddings; refuse an encoder without one."""
    if embeddings.joint is None:
        raise ConfigError(
            f"{term}: expected an encoder with a fusion, got none; build it with "
            f"clipkit.models.with_fusion"
        )
    return embeddings.joint


def tokens_of(embeddings: Embeddings, joint: JointStage, term: str) -> Tokens:
    """Return the token sequences of all modalities that are fused; refuse a batch without one."""
    tokens = embeddings.tokens or {}
    absent = [name for name in joint.fused_names if name not in tokens]
    if absent:
        raise ConfigError(f"{term}: expected the tokens of {absent[0]!r} in every batch, got none")
    return tokens


def complete_samples(
    embeddings: Embeddings, batch: Batch | None, joint: JointStage
) -> Bool[Tensor, " B"]:
    """Return which samples have all modalities that are fused, which belong together."""
    first, _ = embeddings.of(joint.fused_names[0])
    complete = torch.ones(len(first), dtype=torch.bool, device=first.device)
    for name in joint.fused_names:
        _, present = embeddings.of(name)
        if present is not None:
            complete = complete & present
    if batch is not None and batch.pair_mask is not None and set(joint.fused_names) >= _PAIR:
        complete = complete & batch.pair_mask
    return complete


def sizes_of_ranks(batch: Batch | None, count: int) -> list[int]:
    """Return the number of samples of each rank, which are exchanged unless the batch has them.

    Args:
        batch: Batch of this rank.
        count: Number of samples of this rank.
    """
    known = None if batch is None else batch.rank_sizes
    if known is not None and len(known) == world_size() and known[rank()] == count:
        return list(known)
    return [number for (number,) in gather_numbers(count)]


def padded_tokens(sequence: TokenSequence, length: int) -> TokenSequence:
    """Pad sequences to a length, with a mask."""
    values = sequence.values
    more = length - values.shape[1]
    mask = sequence.mask
    if mask is None:
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    return TokenSequence(F.pad(values, (0, 0, 0, more)), F.pad(mask, (0, more)))


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half precision to float32, in which losses are summed."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def checked_micro_batch(size: int | None) -> int | None:
    """Return ``micro_batch_size``, or raise an error that names it."""
    check_at_least("micro_batch_size", size, 1)
    return size


def in_micro_batches(
    function: Callable[[slice], Float[Tensor, " rows"]],
    samples: Shaped[Tensor, "B *rest"],
    size: int | None,
) -> Iterator[Float[Tensor, " rows"]]:
    """Call a function on ranges of samples, whose activations are computed again when needed.

    Args:
        function: Function of a range of samples.
        samples: Any tensor of all samples, on the device on which the function computes.
        size: Samples of a range; None for all at once, without computing anything twice.
    """
    count = len(samples)
    if size is None or count <= size:
        yield function(slice(0, count))
        return
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        # checkpoint() finds the device whose random state it has to keep by its tensor arguments
        yield checkpoint(lambda _, rows: function(rows), samples, part, use_reentrant=False)
