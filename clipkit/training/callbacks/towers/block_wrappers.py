"""Compile and recompute the blocks of a tower, in either order.

``torch.compile`` cannot trace ``torch.utils.checkpoint`` from outside: a compiled block whose
forward recomputes activations silently runs without a graph. Therefore a recomputed block compiles
the function that it recomputes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from clipkit.training.lightning_compat import undo_compile

_OPTIONS: Final = "_compile_options"


class Recomputed:
    """A module's forward whose activations are computed again in the backward pass.

    Without ``compile_options``, the arguments of ``torch.compile``, it is not compiled.
    """

    def __init__(
        self, forward: Callable[..., Any], compile_options: dict[str, Any] | None = None
    ) -> None:
        self.forward = forward
        self.compile_options = compile_options
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward, and keep only its inputs."""
        if self._compiled is None and self.compile_options is not None:
            self._compiled = torch.compile(self.forward, **self.compile_options)
        return checkpoint(self._compiled or self.forward, *args, use_reentrant=False, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Recomputed:
        # a copy of the module has a copy of its forward, which it compiles again
        return Recomputed(copy.deepcopy(self.forward, memo), self.compile_options)


def compile_block(block: nn.Module, backend: str, mode: str | None) -> None:
    """Compile a block when it first runs; parameters keep their names."""
    options = {"backend": backend, "mode": mode}
    if isinstance(block.forward, Recomputed):
        block.forward.compile_options = options
    else:
        block.compile(**options)
        setattr(block, _OPTIONS, options)


def recompute_block(block: nn.Module) -> None:
    """Recompute a block's activations in the backward pass."""
    options = getattr(block, _OPTIONS, None)
    if options is not None:
        undo_compile(block)  # its forward is compiled instead
    block.forward = Recomputed(block.forward, options)


@contextmanager
def without_recomputing(module: nn.Module) -> Iterator[None]:
    """Use the plain forward of blocks whose activations are recomputed."""
    wrapped = [
        (part, part.forward) for part in module.modules() if isinstance(part.forward, Recomputed)
    ]
    for part, forward in wrapped:
        part.forward = forward.forward
    try:
        yield
    finally:
        for part, forward in wrapped:
            part.forward = forward
