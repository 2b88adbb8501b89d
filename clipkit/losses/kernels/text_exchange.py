"""Exchange of the text embeddings and of their gradients, behind the passes of the image tower.

The forward pass: the text tower runs first, and its embeddings are gathered while the image tower
runs. The backward pass: autograd runs the nodes of the forward pass from the last to the first, so
that a node between the two towers runs after the image tower's backward pass. It is the first to
wait for the sums of the gradients, which the loss has begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.distributed.collectives import Arriving, begin_gather, begin_sum_to_owner


class LateText(NamedTuple):
    """Texts of this rank whose gradient arrives during the backward pass."""

    text: Float[Tensor, "B D"]  # input of the loss in place of the texts
    gradient: Float[Tensor, "B D"]  # ones, which the late gradient is multiplied by


@final
class TextExchange:
    """The text embeddings of one step on their way to all ranks, and their gradients back.

    Values and gradients are those of an exchange inside the loss, bit for bit. One loss of a step
    can return its gradients late; others use the gathered texts, and return theirs at once.
    """

    def __init__(self) -> None:
        self._text: Tensor | None = None
        self._gathered: Arriving | None = None
        self._late: Tensor | None = None
        self._gradient: list[Arriving] = []

    def begin(self, text: Float[Tensor, "B D"], sizes: Sequence[int]) -> None:
        """Begin to gather the texts, between the towers; every rank calls it.

        Args:
            text: Embeddings of the texts of this rank.
            sizes: Number of texts of each rank.
        """
        self._text, self._gathered = text, begin_gather(text, sizes)
        # the sums of the gradients have this precision
        if text.requires_grad and text.dtype in (torch.float32, torch.float64):
            self._late = _LateGradient.apply(text, self._gradient)

    def gathered(self, text: Float[Tensor, "B D"]) -> Float[Tensor, "N D"] | None:
        """Return the texts of all ranks; None if it is not these texts that are exchanged."""
        if self._gathered is None or text is not self._text:
            return None
        return self._gathered.wait()

    def begin_gradient(self, sums: Float[Tensor, "N D"], sizes: Sequence[int]) -> LateText | None:
        """Begin to sum the gradients of the texts of all ranks.

        Args:
            sums: This rank's part of the gradients of all texts; it must not be changed later.
            sizes: Number of texts of each rank.

        Returns:
            The texts of this rank; None if another loss has begun, or no gradient is needed.
        """
        if self._late is None or self._gradient:
            return None
        self._gradient.append(begin_sum_to_owner(sums, sizes))
        return LateText(self._late, sums.new_ones(()).expand_as(self._late))


class _LateGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, text: Tensor, gradient: list[Arriving]) -> Tensor:
        ctx.gradient = gradient
        return text.view_as(text)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.gradient
        return upstream * gradient.wait(), None
