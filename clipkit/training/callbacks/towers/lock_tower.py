"""Freeze a tower, its first layers, or both until a moment of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.models.towers.base import Tower
from clipkit.models.towers.freezing import lock
from clipkit.renamed_arguments import renamed_arguments
from clipkit.training.lightning_compat import encoder_of
from clipkit.training.progress.run_progress import run_progress
from clipkit.training.strategies.ddp import rewrap
from clipkit.when import Moment, Progress, as_when


@renamed_arguments({"step": "begin", "fraction": "begin"})
@dataclass(frozen=True, slots=True)
class Unlock:
    """Train more layers of a tower from a moment of the run on.

    Args:
        groups: Number of layer groups, counted from the output, that are trained from then on.
        begin: Number of completed steps, completed fraction of the run, or a ``When``.

    Raises:
        ConfigError: If ``begin`` is out of range.
    """

    groups: int
    begin: Moment

    def __post_init__(self) -> None:
        as_when("LockTower.unlock.begin", self.begin)


@final
class LockTower(Callback):
    """Freeze a tower: LiT (Zhai et al. 2022), or fine-tuning of the last layers.

    With ``unlock`` more layers are trained later. They belong to the optimizer from the start, so
    that a resumed run is exact; frozen layers cost no gradients and no exchange between ranks.

    Args:
        tower: Name of the tower.
        unlocked_groups: Number of layer groups, counted from the output, that are trained from the
            start.
        unlock: Moments at which more layer groups are trained, in order.

    Examples:
        >>> trainer = Trainer(callbacks=[
        ...     LockTower("image_tower", unlock=[Unlock(groups=3, begin=0.5)])])
    """

    def __init__(
        self,
        tower: str,
        unlocked_groups: int = 0,
        unlock: list[Unlock] | None = None,
    ) -> None:
        self.tower = tower
        self.unlocked_groups = unlocked_groups
        self.unlock = list(unlock or [])
        self._learning = -1
        self._names: frozenset[str] = frozenset()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze layers that are never trained, before the optimizer collects the parameters."""
        if stage != "fit":
            return
        tower = self._tower(pl_module)
        lock(tower, max([self.unlocked_groups, *(entry.groups for entry in self.unlock)]))
        self._names = frozenset(n for n, p in tower.named_parameters() if p.requires_grad)
        self._learning = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze layers that are not trained yet at this step, also in a resumed run."""
        self.on_train_batch_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Unlock the layers that are due."""
        if not self.unlock:
            return
        progress = run_progress(trainer)
        learning = groups_due(self.unlocked_groups, self.unlock, progress)
        if learning == self._learning:
            return
        self._learning = learning
        tower = self._tower(pl_module)
        groups = tower.layer_groups()
        locked = {name for group in groups[: len(groups) - learning] for name in group}
        for name in self._names:
            parameter = tower.get_parameter(name)
            parameter.requires_grad_(name not in locked)
            parameter.grad = None
        encoder_of(pl_module).train()  # a locked tower stays in evaluation mode
        rewrap(trainer.strategy)

    def _tower(self, pl_module: LightningModule) -> Tower:
        return encoder_of(pl_module).tower_named(self.tower)


def groups_due(at_first: int, unlock: Sequence[Unlock], progress: Progress) -> int:
    """Return the number of layer groups that are trained at a point of the run.

    Examples:
        >>> groups_due(1, [Unlock(3, begin=10)], Progress(step=10))
        3
    """
    due = [e.groups for e in unlock if as_when("begin", e.begin).is_reached(progress)]
    return due[-1] if due else at_first
