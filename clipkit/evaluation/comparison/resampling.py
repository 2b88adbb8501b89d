"""Random weights of units: bootstrap samples and permutations, by complete groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.random import PCG64
from torch import Tensor

_NUMBERS_AT_ONCE = 2**16
"""Weights that are yielded together: 0.5 MB, and hundreds of samples of a small set."""


def group_numbers(groups: Sequence[str]) -> tuple[Int64[Tensor, " N"], int]:
    """Assign numbers to groups in the order of their names, whatever the order of units.

    Args:
        groups: Name of the group of each of N units.

    Returns:
        Number of the group of each unit, and the number of groups.

    Examples:
        >>> group_numbers(["b", "a", "b"])
        (tensor([1, 0, 1]), 2)
    """
    number = {name: position for position, name in enumerate(sorted(set(groups)))}
    return torch.tensor([number[name] for name in groups]), len(number)


def bootstrap_weights(
    groups: Sequence[str], replicates: int, seed: int
) -> Iterator[Float[Tensor, "samples N"]]:
    """Yield how often each unit occurs in each bootstrap sample, several samples at once.

    As many groups as there are are drawn with replacement, each with all of its units. The numbers
    come from the raw output of a generator, which all versions of NumPy keep; a random integer is
    the upper half of a product, whose deviation from uniform is below G / 2^32 for G groups.

    Args:
        groups: Name of the group of each of N units.
        replicates: Number of samples.
        seed: Seed of the generator.

    Examples:
        >>> ((weights,),) = bootstrap_weights(["a", "a", "b"], 1, seed=0)
        >>> bool(weights[0] == weights[1]), sorted({float(weights[0] + weights[2])})
        (True, [2.0])
    """
    numbers, num_groups = group_numbers(groups)
    generator = PCG64(seed)
    for rows in _rows_at_once(replicates, len(groups)):
        raw = np.asarray(generator.random_raw(rows * num_groups)).reshape(rows, num_groups)
        drawn = (raw >> np.uint64(32)) * np.uint64(num_groups) >> np.uint64(32)
        places = drawn.astype(np.int64) + num_groups * np.arange(rows)[:, None]
        counts = np.bincount(places.ravel(), minlength=rows * num_groups)
        yield torch.from_numpy(counts.reshape(rows, num_groups))[:, numbers].double()


def random_swaps(
    groups: Sequence[str], replicates: int, seed: int
) -> Iterator[Float[Tensor, "draws N"]]:
    """Yield 0 or 1 with equal probability for each unit, several draws at once.

    Units of one group have the same number.

    Args:
        groups: Name of the group of each of N units.
        replicates: Number of draws.
        seed: Seed of the generator.
    """
    numbers, num_groups = group_numbers(groups)
    generator, num_words = PCG64(seed), -(-num_groups // 64)
    for rows in _rows_at_once(replicates, len(groups)):
        raw = np.asarray(generator.random_raw(rows * num_words)).reshape(rows, num_words)
        bits = np.unpackbits(raw.astype("<u8").view(np.uint8), axis=1, bitorder="little")
        yield torch.from_numpy(bits)[:, numbers].double()


def _rows_at_once(replicates: int, num_units: int) -> Iterator[int]:
    """Yield how many of the replicates are drawn at once, until all are."""
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, num_units))
    for start in range(0, replicates, at_once):
        yield min(at_once, replicates - start)
