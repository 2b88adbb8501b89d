"""Print the parameters by part before the first step."""

from __future__ import annotations

from typing import final

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from clipkit.models.parameters import count_parameters


@final
class ParameterSummary(Callback):
    """Prints the numbers of parameters by part of the encoder: all, and trainable ones."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print on rank 0."""
        if trainer.is_global_zero:
            encoder = getattr(pl_module, "encoder", pl_module)
            Console(stderr=True).print(parameter_table(count_parameters(encoder)))


def parameter_table(counts: dict[str, tuple[int, int]]) -> Table:
    """Return the counts as a table with a sum."""
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("trained", justify="right")
    for part, (everything, trained) in counts.items():
        table.add_row(part, f"{everything:,}", f"{trained:,}")
    sums = [sum(column) for column in zip(*counts.values(), strict=True)] or [0, 0]
    table.add_row("[bold]all", *(f"[bold]{number:,}" for number in sums))
    return table
