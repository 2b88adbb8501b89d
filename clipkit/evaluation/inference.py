"""Options of inference: batch size, workers, precision; and the encoder's state while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Final

import torch

from clipkit.distributed.unsharded import unsharded
from clipkit.errors import ConfigError
from clipkit.models import DualEncoder

_PRECISIONS: Final = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        _check_precision(self.precision)
        for name, least in (("batch_size", 1), ("num_workers", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}: expected at least {least}, got {value}")


MOVED_TO_OPTIONS: Final = {
    field.name: f"options=EmbedOptions({field.name}=...)" for field in fields(EmbedOptions)
}
"""Arguments of evaluators in version 0.1, and their place now."""


@contextmanager
def evaluating(encoder: DualEncoder, precision: str = "fp32") -> Iterator[None]:
    """Put an encoder into evaluation mode, without gradients, and restore its mode afterwards.

    Args:
        encoder: The model. The mode of each module is restored: a frozen tower that was in
            evaluation mode stays in it. A model that is sharded over ranks is gathered once.
        precision: "fp32", or autocast to "bf16" or "fp16".

    Raises:
        ConfigError: If the precision is unknown.
    """
    _check_precision(precision)
    modes = [(module, module.training) for module in encoder.modules()]
    device, dtype = encoder.log_logit_scale.device, _PRECISIONS[precision]
    encoder.eval()
    try:
        with (
            torch.no_grad(),
            torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None),
            unsharded(encoder),
        ):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _check_precision(precision: str) -> None:
    if precision not in _PRECISIONS:
        raise ConfigError(f"precision: expected one of {', '.join(_PRECISIONS)}, got {precision!r}")
