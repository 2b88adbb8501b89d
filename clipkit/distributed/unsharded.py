"""Gather the weights of a sharded model for several forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import nn


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Gather the weights of FSDP2 modules once, so that their forward passes exchange nothing.

    A forward pass of a sharded module is a collective. Ranks with different numbers of passes, as
    in an evaluation of an uneven number of samples, would block each other forever.
    """
    if not (dist.is_available() and dist.is_initialized()):
        yield
        return
    from torch.distributed.fsdp import FSDPModule  # a second of imports

    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        inner = {child for part in parts for child in part.modules() if child is not part}
        for part in parts:
            part.reshard()
            # as ``fully_shard`` sets it: the outermost module stays gathered for the backward pass
            part.set_reshard_after_forward(part in inner, recurse=False)
