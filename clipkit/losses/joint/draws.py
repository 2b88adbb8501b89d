"""Random numbers that belong to samples: the same on any number of ranks.

A number is a hash of the seed, the step, the sample and a counter (SplitMix64, Steele et al. 2014,
"Fast splittable pseudorandom number generators"), so that no generator has a state to store.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.types import Batch

_WORD: Final = 1 << 64
_GAMMA: Final = 0x9E3779B97F4A7C15 - _WORD
_FIRST: Final = 0xBF58476D1CE4E5B9 - _WORD
_SECOND: Final = 0x94D049BB133111EB - _WORD
_BITS: Final = 23  # that float32 holds exactly, with a half added


def mix(values: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Return the output of SplitMix64 for each state.

    Examples:
        >>> hex(int(mix(torch.tensor(0))) % 2**64)
        '0xe220a8397b1dcdaf'
    """
    values = values + _GAMMA
    values = (values ^ _shifted(values, 30)) * _FIRST
    values = (values ^ _shifted(values, 27)) * _SECOND
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift right without copies of the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def uniform(keys: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return a number between 0 and 1 for each key, never one of them.

    Examples:
        >>> uniform(torch.tensor([0, 1])).shape
        torch.Size([2])
    """
    return (_shifted(mix(keys), 64 - _BITS).float() + 0.5) / (1 << _BITS)


def sample_keys(
    batch: Batch | None, ids: Int64[Tensor, " B"], seed: int, counter: int
) -> Int64[Tensor, " B"]:
    """Return a key per sample for one kind of draw in one step.

    Args:
        batch: Batch of this rank, whose cursor tells the step; None, or no cursor, for step 0.
        ids: Number of each sample; see ``sample_numbers``.
        seed: Seed of the term.
        counter: Number of the kind of draw.
    """
    cursor = {} if batch is None or batch.cursor is None else batch.cursor
    parts = (seed, counter, int(cursor.get("epoch", 0)), int(cursor.get("position", 0)))
    key = torch.zeros((), dtype=torch.int64, device=ids.device)
    for part in parts:
        key = mix(key ^ part)
    return mix(key ^ ids)


def sample_numbers(
    batch: Batch | None, count: int, first: int, device: torch.device
) -> Int64[Tensor, " B"]:
    """Return the ids of samples, or their positions in the batch of all ranks if they have none.

    Args:
        batch: Batch of this rank.
        count: Number of samples of this rank.
        first: Position of the first one in the batch of all ranks.
        device: Device of the result.
    """
    if batch is not None and batch.sample_ids is not None:
        return batch.sample_ids.to(device)
    return torch.arange(first, first + count, device=device)


def caption_hashes(tokens: Int64[Tensor, "B S"], mask: Tensor | None) -> Int64[Tensor, " B"]:
    """Return a hash of the tokens of each caption, which does not depend on its padding."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    hashes = mix(mix(tokens) ^ positions)
    return (hashes if mask is None else hashes.masked_fill(~mask, 0)).sum(1)
