"""An exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import CheckpointError, ConfigError

_Place = tuple[torch.device, torch.dtype]
_FUSED_NUMEL: Final = 1 << 22
"""Largest tensor of which many are averaged by one kernel; one kernel of a larger one is long."""


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
        self._tensors: list[Tensor] = []
        self._values: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {
            name: value.detach().to(_average_type(value), copy=True)
            for name, value in self._values_of(model).items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module, left_out: Float[Tensor, ""] | None = None) -> None:
        """Update the average with the model's weights.

        Args:
            model: The model after an optimizer step, with the same parameters as before.
            left_out: 1 if that step was skipped, on any device: the average does not change, only
                the number of updates. 0 or None otherwise.
        """
        decayed = 1 - decay_of_update(self.num_updates, self.decay)
        shares: dict[_Place, float | Tensor] = {}  # one transfer for all
        groups: dict[_Place, tuple[list[Tensor], list[Tensor]]] = {}
        for name, value in self._values_of(model).items():
            average, own = _on_this_rank(self.weights[name]), _on_this_rank(value.detach())
            if not average.is_floating_point():
                average.copy_(own)
                continue
            place = average.device, average.dtype
            if place not in shares:
                kept = None if left_out is None else (decayed * (1 - left_out)).to(*place)
                shares[place] = decayed if kept is None else kept
            if (own.device, own.dtype) == place and own.numel() <= _FUSED_NUMEL:
                averages, values = groups.setdefault(place, ([], []))
                averages.append(average)
                values.append(own)
            else:
                average.lerp_(own.to(average), shares[place])  # one copy at a time
        for place, (averages, values) in groups.items():
            _average_all(averages, values, shares[place])
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

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy consists of; it must not average a copy of the model."""
        return {**self.__dict__, "_tensors": [], "_values": {}}

    def _values_of(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the ``state_dict`` of a model, which is asked again only if a tensor is another.

        Its hooks may wait for a GPU.
        """
        tensors = [*model.parameters(), *model.buffers()]
        if [*map(id, tensors)] == [*map(id, self._tensors)]:
            return self._values
        values = model.state_dict(keep_vars=True)
        tensors = [*model.parameters(), *model.buffers()]  # hooks of FSDP2 may have replaced some
        if {id(value) for value in values.values()} <= {id(tensor) for tensor in tensors}:
            self._tensors, self._values = tensors, values
        return values


def _average_type(value: Tensor) -> torch.dtype:
    """Return at least float32: updates of (1 - decay) would vanish in half precision."""
    return torch.float32 if value.dtype in (torch.float16, torch.bfloat16) else value.dtype


def _on_this_rank(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, and others as they are."""
    to_local: Any = getattr(tensor, "to_local", None)
    local: Tensor = tensor if to_local is None else to_local()
    return local


def _average_all(averages: list[Tensor], values: list[Tensor], share: float | Tensor) -> None:
    """Move averages towards values by a share of the distance, in a few kernels for all of them.

    They take one number of the CPU, or a tensor of each one's shape; those share one memory.
    """
    if isinstance(share, float):
        torch._foreach_lerp_(averages, values, share)
        return
    shares = share.expand(max(average.numel() for average in averages)).contiguous()
    weights = [shares.as_strided(average.shape, average.stride()) for average in averages]
    torch._foreach_lerp_(averages, values, weights)
