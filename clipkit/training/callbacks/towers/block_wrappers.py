"""Compile and recompute a tower or its blocks, in either order.

``torch.compile`` cannot trace ``torch.utils.checkpoint`` from outside of a block: a compiled block
whose forward recomputes activations silently runs without a graph. Therefore the block itself stays
as it is, and its forward compiles what it runs.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, final

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from clipkit.training.lightning_compat import product_operators, undo_compile

_OPTIONS: Final = "_compile_options"

Forward = Callable[..., Any]


class ForwardWrapper(ABC):
    """A callable in the place of a module's forward, which hooks and copies treat as that forward.

    Args:
        forward: The module's own forward.
        compile_options: Arguments of ``torch.compile``; None to compile nothing.
    """

    def __init__(self, forward: Forward, compile_options: dict[str, Any] | None = None) -> None:
        self.forward = forward
        self.compile_options = compile_options
        self._compiled: Forward | None = None

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward."""

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardWrapper:
        # a copy of the module has a copy of its forward, which it compiles again
        return type(self)(copy.deepcopy(self.forward, memo), self.compile_options)

    def _compile(self, function: Forward) -> Forward:
        """Return a function, compiled once if this is wanted."""
        if self.compile_options is None:
            return function
        if self._compiled is None:
            self._compiled = torch.compile(function, **self.compile_options)
        return self._compiled


@final
class CompiledForward(ForwardWrapper):
    """Compiles the forward without the module's hooks, which run before and after the graph."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph."""
        return self._compile(self.forward)(*args, **kwargs)


class Recomputed(ForwardWrapper, ABC):
    """A module's forward whose activations are computed again in the backward pass.

    With gradients in evaluation mode, they are kept: by the backward pass, an encoder that embeds a
    made-up row is back in training mode, where batch norms and dropout compute something else.
    """

    def _keeps_all(self) -> bool:
        """Return whether the block is in evaluation mode, and gradients are computed."""
        block = getattr(self.forward, "__self__", None)
        return torch.is_grad_enabled() and isinstance(block, nn.Module) and not block.training


@final
class RecomputedBlock(Recomputed):
    """Keeps the inputs of the forward alone."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward, and keep its inputs."""
        if self._keeps_all():
            return self._compile(self.forward)(*args, **kwargs)
        return checkpoint(self._compile(self.forward), *args, use_reentrant=False, **kwargs)


@final
class RecomputedBetweenProducts(Recomputed):
    """Keeps inputs and the results of matrix products, attention and convolutions.

    What is computed again is cheap: norms, activation functions, sums.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward, and keep its inputs and products."""
        if self.compile_options is None and self._keeps_all():
            return self.forward(*args, **kwargs)
        # The choice is made per operation, which a compiled forward hides from the outside; the
        # graph has to contain the checkpoint.
        return self._compile(self._checkpoint)(*args, **kwargs)

    def _checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(
            self.forward, *args, use_reentrant=False, context_fn=_keep_products, **kwargs
        )


_keep_products: Final = partial(create_selective_checkpoint_contexts, product_operators())


def compile_block(block: nn.Module, backend: str, mode: str | None) -> None:
    """Compile a block when it first runs; parameters keep their names."""
    options = {"backend": backend, "mode": mode}
    if isinstance(block.forward, Recomputed):
        block.forward.compile_options = options
    else:
        block.compile(**options)
        setattr(block, _OPTIONS, options)


def compile_tower(tower: nn.Module, backend: str, mode: str | None) -> None:
    """Compile a complete tower as one graph when it first runs."""
    tower.forward = CompiledForward(tower.forward, {"backend": backend, "mode": mode})


def recompute_block(block: nn.Module, kind: type[Recomputed] = RecomputedBlock) -> None:
    """Recompute a block's activations in the backward pass."""
    options = getattr(block, _OPTIONS, None)
    if options is not None:
        undo_compile(block)  # its forward is compiled instead
    block.forward = kind(block.forward, options)


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
