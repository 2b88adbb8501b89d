"""Compile and recompute the blocks of a tower, in either order.

``torch.compile`` cannot look into ``torch.utils.checkpoint`` from outside: a compiled block whose
forward recomputes its activations runs without a graph, silently. So a recomputed block compiles
what it recomputes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from clipkit.training.lightning_compat import undo_compile

_OPTIONS: Final = "_compile_options"


class Recomputed:
    """A module's forward whose activations are computed again in the backward pass.

    Args:
        forward: The bound forward of the module.
        compile_options: Arguments of ``torch.compile``, or None to run as it is.
    """

    def __init__(
        self, forward: Callable[..., Any], compile_options: dict[str, Any] | None = None
    ) -> None:
        self.forward = forward
        self.compile_options = compile_options
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward, and keep its inputs alone."""
        if self._compiled is None and self.compile_options is not None:
            self._compiled = torch.compile(self.forward, **self.compile_options)
        return checkpoint(self._compiled or self.forward, *args, use_reentrant=False, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Recomputed:
        # a copy of the module holds a copy of its forward, which it compiles for itself
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
    """Have a block's activations computed again when its gradients are."""
    options = getattr(block, _OPTIONS, None)
    if options is not None:
        undo_compile(block)  # its forward is compiled instead
    block.forward = Recomputed(block.forward, options)
