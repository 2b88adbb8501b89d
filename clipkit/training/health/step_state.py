"""State that a step changes in addition to weights and moments, restored after a bad step."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.losses.term import LossTerm
from clipkit.models.heads.prototype_head import PrototypeLabelHead


@final
class StepState:
    """Keeps buffers and the memory of losses before a step, to restore them after a bad step.

    Buffers are those in checkpoints, such as running statistics of batch norms and prototypes of a
    label head. They and the memory of losses (``LossTerm.begin_step``) are restored on the device,
    without waiting for it.

    Args:
        module: Encoder and loss; a buffer may be replaced by another of the same shape.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._stored = frozenset(module.state_dict())
        self._terms = [m for m in module.modules() if isinstance(m, LossTerm) and m.remembers]
        self._heads = [m for m in module.modules() if isinstance(m, PrototypeLabelHead)]
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def keep(self) -> None:
        """Store the state before the first forward pass of a step."""
        for name, buffer in self._buffers().items():
            kept = self._before.get(name)
            if kept is None or kept.shape != buffer.shape or kept.device != buffer.device:
                self._before[name] = buffer.detach().clone()
            else:
                kept.copy_(buffer)
        for term in self._terms:
            term.begin_step()

    @torch.no_grad()
    def restore(self, verdict: Float[Tensor, ""]) -> None:
        """Restore the state of ``keep`` if the step is bad."""
        bad = verdict > 0
        for name, buffer in self._buffers().items():
            buffer.copy_(torch.where(bad.to(buffer.device), self._before[name], buffer))
        for term in self._terms:
            term.end_step(left_out=bad)

    def leave_out(self) -> None:
        """Tell label heads that a step was left out, as soon as the CPU knows it."""
        for head in self._heads:
            head.leave_out()

    def _buffers(self) -> dict[str, Tensor]:
        return {n: b for n, b in self._module.named_buffers() if n in self._stored}
