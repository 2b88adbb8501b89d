"""Samples of a training split that are held out, with all samples of their groups."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Int64
from torch import Tensor

SHARE: Final = 5
"""One of this many samples of each class is held out."""


def hold_out(
    labels: Int64[Tensor, " N"], groups: Sequence[str] = ()
) -> tuple[Int64[Tensor, " kept"], Int64[Tensor, " held_out"]]:
    """Return rows to fit on and rows to hold out: a fifth of each class.

    Args:
        labels: Class of each row.
        groups: Group of each row; a group is held out completely or not at all. If no two rows have
            the same one, or there are none, every fifth row of each class is held out.

    Returns:
        Rows to fit on and rows to hold out, in ascending order.

    Examples:
        >>> hold_out(torch.tensor([0, 0, 0, 0, 0, 1]))
        (tensor([0, 1, 2, 3, 5]), tensor([4]))
    """
    if len(set(groups)) == len(groups):
        held = _every_fifth(labels.tolist())
    else:
        held = rows_of_groups([[label] for label in labels.tolist()], groups)
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _every_fifth(labels: Sequence[int]) -> Tensor:
    seen: Counter[int] = Counter()
    held = torch.zeros(len(labels), dtype=torch.bool)
    for row, label in enumerate(labels):
        seen[label] += 1
        held[row] = seen[label] % SHARE == 0
    return held


def rows_of_groups(classes: Sequence[Sequence[int]], groups: Sequence[str]) -> Tensor:
    """Choose groups until about a fifth of the samples of each class is held out.

    Groups are considered in the order of a hash of their names, so that the choice depends neither
    on the order of the rows nor on a seed. No class loses all of its samples.

    Args:
        classes: Classes of each row; none, one or several.
        groups: Group of each row.

    Returns:
        Whether each row is held out.

    Examples:
        >>> rows_of_groups([[0]] * 10, ["a"] * 2 + ["b"] * 2 + ["c"] * 6).sum().item()
        2
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    total = Counter(number for numbers in classes for number in numbers)
    taken: Counter[int] = Counter()
    held = torch.zeros(len(groups), dtype=torch.bool)
    for group in sorted(rows, key=_order):
        counts = Counter(number for row in rows[group] for number in classes[row])
        empties_one = any(taken[c] + n >= total[c] for c, n in counts.items())
        gain = sum(
            n if SHARE * (taken[c] + n) <= total[c] + SHARE - 1 else -n for c, n in counts.items()
        )
        if gain > 0 and not empties_one:
            taken.update(counts)
            held[rows[group]] = True
    return held


def _order(group: str) -> bytes:
    return hashlib.sha256(group.encode()).digest()
