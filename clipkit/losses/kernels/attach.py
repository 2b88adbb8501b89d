"""Attach a gradient that was computed without autograd to a value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def outside_compiled_graph(function: Callable[P, R]) -> Callable[P, R]:
    """Exclude ``function`` from ``torch.compile``: the graph breaks there and it runs eagerly.

    Loops over tiles, whose number depends on the batch, would be unrolled and compiled again for
    every number; ``in_one_graph`` includes it nevertheless. ``torch.compiler.disable`` is called at
    the first use inside a compiled graph and not here, because it imports ``torch._dynamo``, which
    takes two seconds.
    """

    @wraps(function)
    def eager(*args: P.args, **kwargs: P.kwargs) -> R:
        if _ONE_GRAPH.is_on or not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        disabled: Callable[P, R] | None = getattr(function, "disabled", None)
        if disabled is None:
            disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
            function.disabled = disabled  # type: ignore[attr-defined]
        return disabled(*args, **kwargs)

    return eager


class _Switch:
    is_on = False


_ONE_GRAPH: Final = _Switch()


@contextmanager
def in_one_graph() -> Iterator[None]:
    """Include the losses in graphs that are compiled or run here: batches have one shape."""
    before, _ONE_GRAPH.is_on = _ONE_GRAPH.is_on, True
    try:
        yield
    finally:
        _ONE_GRAPH.is_on = before


@contextmanager
def without_autograd(device: torch.device) -> Iterator[None]:
    """Compute a value and its gradient in full precision, and record nothing."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


class _AttachGradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gradients: tuple[Tensor | None, ...], *inputs: Tensor | None
    ) -> Tensor:
        ctx.dtypes = tuple(None if tensor is None else tensor.dtype for tensor in inputs)
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scaled = tuple(
            None if gradient is None or dtype is None else (gradient * upstream).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return None, None, *scaled


def attach_gradients(
    value: Float[Tensor, ""],
    gradients: tuple[Tensor | None, ...],
    inputs: tuple[Tensor | None, ...],
) -> Float[Tensor, ""]:
    """Return ``value`` as a tensor whose gradient with respect to ``inputs`` is ``gradients``."""
    if torch.compiler.is_compiling():
        return _in_graph(value, gradients, inputs)
    result: Tensor = _AttachGradients.apply(value, gradients, *inputs)
    return result


def _in_graph(
    value: Tensor, gradients: tuple[Tensor | None, ...], inputs: tuple[Tensor | None, ...]
) -> Tensor:
    """Attach the gradients by operations that a graph differentiates; they add 0 to the value."""
    for gradient, given in zip(gradients, inputs, strict=True):
        if gradient is not None and given is not None and given.requires_grad:
            product = (given * gradient).sum()
            value = value + (product - product.detach())
    return value
