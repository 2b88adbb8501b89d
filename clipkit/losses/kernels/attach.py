"""Hand a value and its gradient, computed without autograd, over to autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def outside_compiled_graph(function: Callable[P, R]) -> Callable[P, R]:
    """Keep ``torch.compile`` out of ``function``: it breaks the graph there and runs it as it is.

    Loops over tiles, whose number depends on the batch, would be unrolled and compiled anew.
    """
    disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return cast("Callable[P, R]", disabled)


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
    """``value``, as a tensor whose gradient with respect to ``inputs`` is ``gradients``.

    Args:
        value: A scalar that was computed without autograd.
        gradients: One for each input, of its shape; None where it needs none.
        inputs: What ``value`` was computed from; None where an optional one is absent.

    Returns:
        The value; its ``backward`` gives ``gradients`` times what comes from above.
    """
    result: Tensor = _AttachGradients.apply(value, gradients, *inputs)
    return result
