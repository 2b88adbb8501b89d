"""Evaluation mode without gradients, for the time of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn

from clipkit.distributed.unsharded import unsharded
from clipkit.errors import check_choice

_PRECISIONS: Final = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def evaluating(encoder: nn.Module, precision: str = "fp32") -> Iterator[None]:
    """Put an encoder into evaluation mode, without gradients, and restore its mode afterwards.

    Args:
        encoder: The model. The mode of each module is restored: a frozen tower that was in
            evaluation mode stays in it. A model that is sharded over ranks is gathered once.
        precision: "fp32", or autocast to "bf16" or "fp16".

    Raises:
        ConfigError: If the precision is unknown.
    """
    check_precision(precision)
    device, dtype = next(encoder.parameters()).device, _PRECISIONS[precision]
    with (
        in_evaluation_mode(encoder),
        torch.no_grad(),
        torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None),
        unsharded(encoder),
    ):
        yield


@contextmanager
def in_evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and restore the mode of each of its parts afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def check_precision(precision: str) -> None:
    """Refuse an unknown precision."""
    check_choice("precision", precision, _PRECISIONS)
