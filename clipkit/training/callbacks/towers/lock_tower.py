"""A tower that does not learn, only in its last layers, or only later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.errors import ConfigError
from clipkit.models import DualEncoder
from clipkit.models.towers.base import Tower
from clipkit.models.towers.freezing import lock
from clipkit.training.progress.run_progress import RunProgress, run_progress
from clipkit.training.strategies.ddp import rewrap


@dataclass(frozen=True, slots=True)
class Unlock:
    """From when on more of a tower learns.

    Args:
        groups: Layer groups, counted from the output, that learn from then on.
        step: The optimizer step, from 0, that is the first; or
        fraction: the part of the run that is behind by then.

    Raises:
        ConfigError: Unless exactly one of ``step`` and ``fraction`` is given.
    """

    groups: int
    step: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        if (self.step is None) == (self.fraction is None):
            raise ConfigError("LockTower.unlock: expected either step or fraction for each entry")

    def is_due(self, progress: RunProgress) -> bool:
        """Whether a run has come so far."""
        if self.step is not None:
            return progress.step >= self.step
        assert self.fraction is not None
        return progress.fraction >= self.fraction


@final
class LockTower(Callback):
    """Locks a tower: LiT (Zhai et al. 2022), or fine-tuning of the last layers.

    With ``unlock`` more layers join later. They belong to the optimizer from the start, so a
    resumed run is exact; what is locked costs no gradients and no exchange between ranks.

    Args:
        tower: Which one.
        unlocked_groups: Layer groups, counted from the output, that learn from the start.
        unlock: When more of them begin to learn, in order.

    Examples:
        >>> trainer = Trainer(callbacks=[
        ...     LockTower("image_tower", unlock=[Unlock(groups=3, fraction=0.5)])])
    """

    def __init__(
        self,
        tower: Literal["image_tower", "text_tower"],
        unlocked_groups: int = 0,
        unlock: list[Unlock] | None = None,
    ) -> None:
        self.tower = tower
        self.unlocked_groups = unlocked_groups
        self.unlock = list(unlock or [])
        self._learning = -1
        self._names: frozenset[str] = frozenset()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Lock what never learns, before the optimizer collects what does."""
        if stage != "fit":
            return
        tower = self._tower(pl_module)
        lock(tower, max([self.unlocked_groups, *(entry.groups for entry in self.unlock)]))
        self._names = frozenset(n for n, p in tower.named_parameters() if p.requires_grad)
        self._learning = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lock what does not learn yet; in a resumed run, what did not at this step."""
        self._follow(trainer, pl_module)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Unlock what is due."""
        self._follow(trainer, pl_module)

    def _follow(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.unlock:
            return
        progress = run_progress(trainer)
        learning = groups_due(self.unlocked_groups, self.unlock, progress)
        if learning == self._learning:
            return
        self._learning = learning
        encoder, tower = _encoder(pl_module), self._tower(pl_module)
        groups = tower.layer_groups()
        locked = {name for group in groups[: len(groups) - learning] for name in group}
        for name in self._names:
            parameter = tower.get_parameter(name)
            parameter.requires_grad_(name not in locked)
            parameter.grad = None
        encoder.train()  # a tower that is locked no longer leaves evaluation mode
        rewrap(trainer.strategy)

    def _tower(self, pl_module: LightningModule) -> Tower:
        tower: Tower = getattr(_encoder(pl_module), self.tower)
        return tower


def _encoder(pl_module: LightningModule) -> DualEncoder:
    encoder = pl_module.encoder
    assert isinstance(encoder, DualEncoder), "LockTower belongs to ContrastiveModule"
    return encoder


def groups_due(at_first: int, unlock: Sequence[Unlock], progress: RunProgress) -> int:
    """How many groups learn where a run stands.

    Examples:
        >>> groups_due(1, [Unlock(3, step=10)], RunProgress(10, 100, 0.1))
        3
    """
    due = [entry.groups for entry in unlock if entry.is_due(progress)]
    return due[-1] if due else at_first
