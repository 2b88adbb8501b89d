"""Numbers of rows of all ranks, which the CPU knows without asking a GPU."""

from __future__ import annotations

from typing import final

import torch
import torch.distributed as dist

from clipkit.distributed.background import background_group
from clipkit.distributed.collectives import gather_flat, rank, world_size
from clipkit.types import Batch, PairSizes


@final
class SizeExchange:
    """Exchange of the numbers of pairs and negatives of a batch over the ranks.

    It runs in the ``background_group`` from the construction to ``wait``, so that no rank waits for
    a GPU, as the losses otherwise do for batches whose mask or negatives make the ranks uneven.
    Nothing is exchanged in one process, or if the stream knows the sizes.

    Args:
        batch: Batch of this rank. If it is on a GPU and has a ``pair_mask``, it needs
            ``num_pairs``, which ``Batch.to`` sets.
    """

    def __init__(self, batch: Batch) -> None:
        self._sizes = batch.pair_sizes
        self._pending: tuple[dist.Work | None, torch.Tensor] | None = None
        num_pairs, num_negatives = _own_pairs(batch), _own_negatives(batch)
        if world_size() == 1 or batch.tokens is None or num_pairs is None:
            return
        self._sizes = known_sizes(batch, num_pairs, num_negatives)
        if self._sizes is None:
            background = background_group()
            own = torch.tensor([num_pairs, num_negatives or 0], device=background.device)
            self._pending = gather_flat(own, background.group, in_background=True)

    def wait(self) -> PairSizes | None:
        """Return the sizes of all ranks; None if they are not needed or not known."""
        if self._pending is not None:
            work, everyone = self._pending
            if work is not None:
                work.wait()
            self._sizes = PairSizes(*zip(*everyone.view(-1, 2).tolist(), strict=True))
            self._pending = None
        return self._sizes


def known_sizes(batch: Batch, num_pairs: int, num_negatives: int | None) -> PairSizes | None:
    """Return the sizes of all ranks, if the batch carries them.

    A stream that was told another number of ranks than those that exchange cannot know them.

    Args:
        batch: Batch of this rank.
        num_pairs: Number of pairs of this rank that the mask keeps.
        num_negatives: Number of negative texts of this rank; None if no rank has negatives.
    """
    sizes, is_plain = batch.pair_sizes, batch.pair_mask is None and num_negatives is None
    if sizes is None and batch.rank_sizes is not None and is_plain:
        sizes = PairSizes(batch.rank_sizes, (0,) * len(batch.rank_sizes))
    if sizes is None or len(sizes.pairs) != world_size():
        return None
    own = sizes.pairs[rank()], sizes.negative_texts[rank()]
    return sizes if own == (num_pairs, num_negatives or 0) else None


def _own_pairs(batch: Batch) -> int | None:
    if batch.pair_mask is None:
        return len(batch)
    if batch.num_pairs is None and batch.pair_mask.device.type == "cpu":
        return int(batch.pair_mask.sum())
    return batch.num_pairs


def _own_negatives(batch: Batch) -> int | None:
    if batch.negatives is None:
        return None
    return 0 if batch.negatives.tokens is None else len(batch.negatives.tokens)
