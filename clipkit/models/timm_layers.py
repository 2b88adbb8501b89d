"""The order of layers in a timm model, which timm itself knows."""

from __future__ import annotations

from typing import Any


def trunk_groups(trunk: Any) -> list[list[str]]:
    """Names of a timm model's parameters, grouped from its input to its output.

    Args:
        trunk: A timm model.

    Returns:
        Groups of parameter names by timm's ``group_matcher``; each name once.
    """
    from timm.models import group_parameters

    groups = group_parameters(trunk, trunk.group_matcher())
    return [sorted(groups[depth]) for depth in sorted(groups)]
