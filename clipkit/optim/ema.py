"""An exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import CheckpointError, ConfigError


def decay_of_update(num_updates: int, decay: float) -> float:
    """Return the decay of update number ``num_updates`` (from 0), which increases up to ``decay``.

    min(decay, (1 + n) / (10 + n)) keeps random initial weights out of the average of a short run.

    Examples:
        >>> decay_of_update(0, 0.999), decay_of_update(100_000, 0.999)
        (0.1, 0.999)
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


@final
class EmaWeights:
    """Exponential moving average of weights, average = d * average + (1 - d) * weights, in float32.

    Buffers that are part of the weights (running statistics of batch norms) are averaged as well;
    integers are copied.

    Args:
        model: Model with whose weights the average starts.
        decay: Weight of the previous average after the first updates, at least 0 and below 1.

    Raises:
        ConfigError: If ``decay`` is out of range.

    Examples:
        >>> average = EmaWeights(encoder, decay=0.999)
        >>> average.update(encoder)              # after each optimizer step
        >>> with average.swapped_into(encoder):  # the encoder holds the average inside
        ...     Retrieval("data/val").run(encoder)
        {...}
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"decay: expected 0 up to but not 1, got {decay}")
        self.decay = decay
        self.num_updates = 0
        self.weights: dict[str, Tensor] = {
            name: value.detach().to(_average_type(value), copy=True)
            for name, value in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module, left_out: Float[Tensor, ""] | None = None) -> None:
        """Update the average with the model's weights.

        Args:
            model: The model after an optimizer step, with the same parameters as before.
            left_out: 1 if that step was skipped, on any device: the average does not change, only
                the number of updates. 0 or None otherwise.
        """
        share = 1 - decay_of_update(self.num_updates, self.decay)
        shares: dict[tuple[torch.device, torch.dtype], Tensor] = {}  # one transfer for all
        groups: dict[type, tuple[list[Tensor], list[Tensor]]] = {}
        for name, value in model.state_dict().items():
            average = self.weights[name]
            if not average.is_floating_point():
                average.copy_(value)
            elif left_out is not None:
                place = average.device, average.dtype
                if place not in shares:
                    shares[place] = (share * (1 - left_out)).to(*place)
                average.lerp_(value.to(average), shares[place])
            elif value.dtype != average.dtype or value.device != average.device:
                average.lerp_(value.to(average), share)  # one copy in float32 at a time
            else:
                averages, values = groups.setdefault(type(value), ([], []))
                averages.append(average)
                values.append(value)
        for averages, values in groups.values():  # not sharded ones mixed with others
            torch._foreach_lerp_(averages, values, share)  # a few kernels for all of them
        self.num_updates += 1

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Load the average into the model inside the context, and restore its weights after it."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that continues the average exactly: tensors and plain types."""
        return {"num_updates": self.num_updates, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; the decay of this object is kept.

        Raises:
            CheckpointError: If the weights belong to another architecture.
        """
        weights: Mapping[str, Tensor] = state["weights"]
        given, own = (
            {(name, value.shape) for name, value in some.items()}
            for some in (weights, self.weights)
        )
        if wrong := sorted({name for name, _ in given ^ own}):
            raise CheckpointError(
                f"average of weights: {len(wrong)} parameters belong to another architecture "
                f"({', '.join(wrong[:3])})"
            )
        for name, value in weights.items():
            self.weights[name].copy_(value)
        self.num_updates = int(state["num_updates"])


def _average_type(value: Tensor) -> torch.dtype:
    """Return at least float32: updates of (1 - decay) would vanish in half precision."""
    return torch.float32 if value.dtype in (torch.float16, torch.bfloat16) else value.dtype
