"""Gather the weights of a sharded model for several forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch.distributed as dist
from torch import nn

_AT_END: WeakKeyDictionary[nn.Module, Callable[[nn.Module], None]] = WeakKeyDictionary()


def on_end_of_unsharded(part: nn.Module, restore: Callable[[nn.Module], None]) -> None:
    """Set what makes an FSDP2 module free its gathered weights again as before ``unsharded``.

    Without it, the weights of inner modules are freed after each forward pass, and those of the
    outermost one stay gathered for the backward pass, as ``fully_shard`` sets it.

    Args:
        part: The module.
        restore: Called with the module; it must not hold it, which would never be freed.
    """
    _AT_END[part] = restore


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
        part.reshard()  # a forward pass may have left weights sharded over fewer ranks
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        inner = {child for part in parts for child in part.modules() if child is not part}
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part in inner, recurse=False)
            if restore := _AT_END.get(part):
                restore(part)
