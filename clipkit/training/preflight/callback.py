"""Show what a run will do before its first step, and refuse what cannot work."""

from __future__ import annotations

from typing import final

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from clipkit.training.module.contrastive_module import ContrastiveModule
from clipkit.training.preflight.plan import check_plan, make_plan
from clipkit.training.preflight.screen import screen
from clipkit.training.progress.run_progress import pair_data


@final
class Preflight(Callback):
    """Checks a run and prints what it will do; ``clipkit fit`` always has this callback.

    Args:
        only: Whether to exit after the screen, as with ``clipkit fit --preflight_only``.
        num_captions: Number of captions that are read to estimate how many are truncated.

    Raises:
        ConfigError: If the run cannot work; raised when the fit starts.
        SystemExit: If ``only`` is set; status 0, after the screen.

    Examples:
        >>> trainer = Trainer(callbacks=[Preflight()])
    """

    def __init__(self, only: bool = False, num_captions: int = 256) -> None:
        self.only = only
        self.num_captions = num_captions

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check on every rank, print on rank 0."""
        data = pair_data(trainer)
        if isinstance(pl_module, ContrastiveModule) and data is not None:
            check_plan(trainer, pl_module, data)
            if trainer.is_global_zero:
                plan = make_plan(trainer, pl_module, data, self.num_captions)
                Console(stderr=True).print(screen(plan))
        if self.only:
            trainer.strategy.barrier("Preflight")
            raise SystemExit(0)
