"""Random weights of units: bootstrap samples and permutations, by complete groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.random import PCG64
from torch import Tensor


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
) -> Iterator[Float[Tensor, " N"]]:
    """Yield how often each unit occurs in each bootstrap sample.

    As many groups as there are are drawn with replacement, each with all of its units. The numbers
    come from the raw output of a generator, which all versions of NumPy keep; a random integer is
    the upper half of a product, whose deviation from uniform is below G / 2^32 for G groups.

    Args:
        groups: Name of the group of each of N units.
        replicates: Number of samples.
        seed: Seed of the generator.

    Examples:
        >>> weights = next(bootstrap_weights(["a", "a", "b"], 1, seed=0))
        >>> bool(weights[0] == weights[1]), sorted({float(weights[0] + weights[2])})
        (True, [2.0])
    """
    numbers, num_groups = group_numbers(groups)
    generator = PCG64(seed)
    for _ in range(replicates):
        raw = np.asarray(generator.random_raw(num_groups))
        drawn = (raw >> np.uint64(32)) * np.uint64(num_groups) >> np.uint64(32)
        counts = np.bincount(drawn.astype(np.int64), minlength=num_groups)
        yield torch.from_numpy(counts)[numbers].double()


def random_swaps(
    groups: Sequence[str], replicates: int, seed: int
) -> Iterator[Float[Tensor, " N"]]:
    """Yield 0 or 1 with equal probability for each unit; units of one group have the same number.

    Args:
        groups: Name of the group of each of N units.
        replicates: Number of draws.
        seed: Seed of the generator.
    """
    numbers, num_groups = group_numbers(groups)
    generator = PCG64(seed)
    for _ in range(replicates):
        raw = np.asarray(generator.random_raw(-(-num_groups // 64)))
        bits = np.unpackbits(raw.astype("<u8").view(np.uint8), bitorder="little")[:num_groups]
        yield torch.from_numpy(bits)[numbers].double()
