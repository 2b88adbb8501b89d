"""Seed the random numbers of a training step reproducibly."""

from __future__ import annotations

import torch

from clipkit.data.rng import generator
from clipkit.types import Batch


def seed_step(batch: Batch, seed: int, rank: int) -> None:
    """Seed torch's random numbers (dropout, dropped patches) by a batch's position in the stream.

    A run that is resumed between any two steps thus draws the same numbers as an uninterrupted one.
    """
    if batch.cursor is None:
        return
    key = (seed, int(batch.cursor["epoch"]), int(batch.cursor["position"]), rank)
    torch.manual_seed(int(generator(*key).integers(2**63)))
