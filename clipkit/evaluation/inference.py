"""Options of inference: batch size, workers, precision."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from clipkit.errors import check_at_least
from clipkit.models.evaluating import check_precision


@dataclass(frozen=True)  # no slots: jsonargparse reads a default instance with vars()
class EmbedOptions:
    """Options of embedding; of these, only ``precision`` changes the values.

    Args:
        batch_size: Images or texts per forward pass of a tower.
        num_workers: Processes that decode images; 0 decodes in the main process.
        limit: Number of samples to read, from the first one on; None for all.
        precision: "fp32", or autocast to "bf16" or "fp16".
        progress: Whether rank 0 shows a progress bar.
    """

    batch_size: int = 64
    num_workers: int = 0
    limit: int | None = None
    precision: str = "fp32"
    progress: bool = False

    def __post_init__(self) -> None:
        check_precision(self.precision)
        for name, least in (("batch_size", 1), ("num_workers", 0), ("limit", 1)):
            check_at_least(name, getattr(self, name), least)


MOVED_TO_OPTIONS: Final = {
    field.name: f"options=EmbedOptions({field.name}=...)" for field in fields(EmbedOptions)
}
"""Arguments of evaluators in version 0.1, and their place now."""
