"""Lock towers, completely or up to the last layers."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from clipkit.errors import ConfigError
from clipkit.models.towers.base import Tower


def lock(tower: Tower, unlocked_groups: int = 0) -> None:
    """Train only the last layer groups of a tower; with 0 groups, this is LiT's locked tower.

    A locked tower also stays in evaluation mode while the encoder is trained: no dropout, and
    batch norms keep their statistics (Zhai et al. 2022, section 3). Parameters that are constant
    by design stay constant.

    Args:
        tower: Tower of an encoder.
        unlocked_groups: Number of ``tower.layer_groups()``, counted from the output, that stay
            trainable.

    Raises:
        ConfigError: If the tower has fewer groups.

    Examples:
        >>> lock(encoder.image_tower)                     # LiT
        >>> lock(encoder.image_tower, unlocked_groups=2)  # all but projection and last block
    """
    groups = tower.layer_groups()
    if not 0 <= unlocked_groups <= len(groups):
        raise ConfigError(
            f"unlocked_groups: this tower has {len(groups)} layer groups, got {unlocked_groups}"
        )
    for names in groups[: len(groups) - unlocked_groups]:
        for name in names:
            tower.get_parameter(name).requires_grad_(False)
    if is_locked(tower):  # Lightning keeps the mode that it finds
        tower.eval()
    _keep_locked_norms(tower)


def is_locked(module: nn.Module) -> bool:
    """Return whether a module has parameters, and none of them is trainable."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def keep_locked_in_evaluation(module: nn.Module) -> None:
    """Put locked modules of a model that was set to training back into evaluation mode."""
    for part in module.children():
        if is_locked(part):
            part.eval()
    _keep_locked_norms(module)


def _keep_locked_norms(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, _BatchNorm) and is_locked(part):
            part.eval()
