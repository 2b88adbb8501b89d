"""How many parameters a model has, by part."""

from __future__ import annotations

from torch import nn


def count_parameters(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Parameters of each direct part of a module.

    A parameter that two parts share counts for the first of them.

    Examples:
        >>> count_parameters(nn.Sequential(nn.Linear(2, 3)))
        {'0': (9, 9)}
    """
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in module.named_parameters():
        part = name.split(".")[0]
        everything, trained = counts.get(part, (0, 0))
        trained += parameter.numel() if parameter.requires_grad else 0
        counts[part] = (everything + parameter.numel(), trained)
    return counts
