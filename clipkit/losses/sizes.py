"""Numbers of rows of all ranks, which the CPU knows without asking a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
import torch.distributed as dist

from clipkit.distributed.background import background_group
from clipkit.distributed.collectives import gather_flat, rank, world_size
from clipkit.types import Batch, PairSizes
from clipkit.types.batch import count_joint


@final
class SizeExchange:
    """Exchange of the numbers of pairs and negatives of a batch over the ranks.

    It runs in the ``background_group`` from the construction to ``wait``, so that no rank waits for
    a GPU, as the losses otherwise do for batches whose mask or negatives make the ranks uneven.
    Nothing is exchanged in one process, or if the stream knows the sizes.

    Args:
        batch: Batch of this rank. If it is on a GPU and has masks, it needs ``num_pairs`` and
            ``num_joint``, which ``Batch.to`` sets.
        modality_pairs: Names of two modalities, in the order of the alphabet, for each pair of
            them that a term compares; the same on every rank.
    """

    def __init__(self, batch: Batch, modality_pairs: Sequence[tuple[str, str]] = ()) -> None:
        self._sizes = batch.pair_sizes
        self._joint = dict(batch.joint_sizes or {})
        self._pending: tuple[dist.Work | None, torch.Tensor] | None = None
        self._exchanged: list[tuple[str, str] | None] = []  # None for the pairs of the batch
        if world_size() == 1:
            return
        own: dict[tuple[str, str] | None, tuple[int, int, int]] = {}
        num_pairs, num_negatives = _own_pairs(batch), _own_negatives(batch)
        if batch.tokens is not None and num_pairs is not None:
            self._sizes = known_sizes(batch, num_pairs, num_negatives)
            if self._sizes is None:
                own[None] = num_pairs, num_negatives or 0, _own_negative_images(batch)
        counts = _own_joint(batch)
        for pair in modality_pairs:
            if pair in counts and pair not in self._joint:
                has_negatives = pair == ("image", "text")
                own[pair] = (
                    counts[pair],
                    (num_negatives or 0) if has_negatives else 0,
                    _own_negative_images(batch) if has_negatives else 0,
                )
        if own:
            background = background_group()
            numbers = torch.tensor([*own.values()], device=background.device).flatten()
            self._pending = gather_flat(numbers, background.group, in_background=True)
            self._exchanged = list(own)

    def wait(self) -> PairSizes | None:
        """Return the sizes of all ranks; None if they are not needed or not known."""
        self._receive()
        return self._sizes

    def wait_for_joint(self) -> dict[tuple[str, str], PairSizes]:
        """Return the sizes of all ranks for samples that have both of two modalities."""
        self._receive()
        return self._joint

    def _receive(self) -> None:
        if self._pending is None:
            return
        work, everyone = self._pending
        if work is not None:
            work.wait()
        self._pending = None
        for index, pair in enumerate(self._exchanged):
            of_pair = everyone.view(-1, len(self._exchanged), 3)[:, index]
            sizes = PairSizes(*zip(*of_pair.tolist(), strict=True))
            if pair is None:
                self._sizes = sizes
            else:
                self._joint[pair] = sizes


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


def _own_joint(batch: Batch) -> Mapping[tuple[str, str], int]:
    return batch.num_joint or count_joint(batch)


def _own_negatives(batch: Batch) -> int | None:
    if batch.negatives is None:
        return None
    return 0 if batch.negatives.tokens is None else len(batch.negatives.tokens)


def _own_negative_images(batch: Batch) -> int:
    images = None if batch.negatives is None else batch.negatives.images
    return 0 if images is None else len(images)
