"""Random numbers of a training step that a resumed run draws again."""

from __future__ import annotations

import torch

from clipkit.data.rng import generator
from clipkit.types import Batch


def seed_step(batch: Batch, seed: int, rank: int) -> None:
    """Set torch's random numbers (dropout, dropped patches) from a batch's place in the stream.

    So a run that is resumed between any two steps draws what an undisturbed one would have drawn.
    """
    if batch.cursor is None:
        return
    key = (seed, int(batch.cursor["epoch"]), int(batch.cursor["position"]), rank)
    torch.manual_seed(int(generator(*key).integers(2**63)))
