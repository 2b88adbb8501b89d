"""Count the parameters of a model by part."""

from __future__ import annotations

from torch import nn


def count_parameters(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Count the parameters of each direct child of a module: all, and the trainable ones.

    A parameter that two children share is counted for the first.
    """
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in module.named_parameters():
        part = name.split(".")[0]
        everything, trained = counts.get(part, (0, 0))
        trained += parameter.numel() if parameter.requires_grad else 0
        counts[part] = (everything + parameter.numel(), trained)
    return counts
