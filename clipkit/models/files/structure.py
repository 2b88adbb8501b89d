"""Build models without their weights, which another process has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def structure_only() -> Iterator[None]:
    """Build encoders inside the block without memory for weights, and read no weights from files.

    Parameters and buffers are on torch's meta device: they have shapes, but no values. Under
    ``clipkit.training.ShardedStrategy``, ranks other than the first may build their encoder so, and
    get their shards of the first rank's weights.

    Examples:
        >>> with structure_only():
        ...     encoder = from_open_clip("ViT-B-32")
        >>> encoder.log_logit_scale.device
        device(type='meta')
    """
    with torch.device("meta"):
        yield


def is_structure_only() -> bool:
    """Return whether a model that is built now gets no weights (``structure_only``)."""
    return torch.get_default_device().type == "meta"
