"""Gradients for explanations, wherever they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.checkpoint import CheckpointError

from clipkit.errors import ConfigError


@contextmanager
def with_gradients() -> Iterator[None]:
    """Allow gradients, and let compiled towers call each function."""
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    except CheckpointError as error:  # what is recomputed would not be seen
        raise ConfigError(
            "explain: the towers recompute their activations in the backward pass; load the "
            "encoder from its checkpoint, or use the method 'occlusion'"
        ) from error
