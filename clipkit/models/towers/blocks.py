"""Find the blocks of a tower by the names of its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from torch import nn

from clipkit.models.towers.base import Tower


def tower_blocks(tower: Tower) -> list[nn.Module]:
    """Return the modules with exactly the parameters of one layer group, from input to output.

    A tower is sharded, compiled and recomputed in these units. Groups that are not a module
    (input embeddings with a class token) have none.
    """
    found = (_module_of(tower, names) for names in tower.layer_groups())
    return [module for module in found if module is not None]


def _module_of(tower: nn.Module, names: Sequence[str]) -> nn.Module | None:
    """Return the module whose parameters are exactly ``names``; None if there is none."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    prefix = ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
    module = tower.get_submodule(prefix)
    held = {f"{prefix}.{name}" for name, _ in module.named_parameters()}
    # a single weight is no block: a linear layer may be used without being called
    return module if prefix and len(names) > 2 and held == set(names) else None
