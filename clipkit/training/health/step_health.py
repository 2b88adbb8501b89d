"""Decide on the device whether a step is applied: finite, and no spike."""

from __future__ import annotations

import math
from typing import Final, final

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from clipkit.distributed.collectives import world_size
from clipkit.training.lightning_compat import can_skip_on_device, is_scaled, set_skip

_LEAST_HISTORY: Final = 20
"""Number of accepted steps before spikes are detected: fewer have no reliable spread."""


@final
class StepHealth:
    """Judges a step by its loss and gradient norm, on the device.

    A step is bad if either is NaN or infinite, or higher than the mean of the last ``window``
    accepted steps by more than ``sigmas`` of their standard deviations. All ranks have the same
    verdict: it is exchanged on the device. Bad steps do not enter the history.

    Args:
        device: Device of losses and gradients.
        sigmas: Distance of a spike from the mean, in standard deviations; infinite to detect only
            NaN and infinity.
        window: Number of accepted steps to compare with.
    """

    def __init__(self, device: torch.device, sigmas: float = math.inf, window: int = 128) -> None:
        self._sigmas = sigmas
        self._history = torch.zeros(2, window, device=device)
        self._num_accepted = torch.zeros((), dtype=torch.long, device=device)

    @torch.no_grad()
    def verdict(self, loss: Float[Tensor, ""], norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return 1 if the step is bad, else 0; on the device, without waiting for it."""
        values = torch.stack([loss.detach().float(), norm.detach().float()])
        bad = ~values.isfinite().all()
        if math.isfinite(self._sigmas):
            bad |= self._is_spike(values)
        verdict = bad.float()
        if world_size() > 1:
            dist.all_reduce(verdict, dist.ReduceOp.MAX)
        # Overwrite the oldest values if the step is good.
        good = verdict == 0
        slot = (self._num_accepted % self._history.shape[1]).expand(2, 1)
        kept = torch.where(good, values[:, None], self._history.gather(1, slot))
        self._history.scatter_(1, slot, kept)
        self._num_accepted += good
        return verdict

    def _is_spike(self, values: Float[Tensor, " 2"]) -> Tensor:
        window = self._history.shape[1]
        count = self._num_accepted.clamp(max=window)
        mask = torch.arange(window, device=self._history.device) < count
        mean = (self._history * mask).sum(1) / count.clamp(min=1)
        variance = ((self._history - mean[:, None]).square() * mask).sum(1) / count.clamp(min=1)
        far = values > mean + self._sigmas * variance.sqrt()
        return far.any() & (self._num_accepted >= _LEAST_HISTORY)


def skips_on_device(optimizer: torch.optim.Optimizer, has_scaler: bool) -> bool:
    """Return whether the optimizer can skip a step by a number on its device.

    torch's fused optimizers can: ``torch.amp.GradScaler`` uses it to skip without waiting
    (``found_inf``). With a scaler it is not available.
    """
    return not has_scaler and can_skip_on_device(optimizer)


def unscale_once(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
    """Divide gradients by the scale of the loss, unless that is done for this step.

    Lightning does so before each step, but leaves it to fused optimizers, which is too late for
    callbacks that read gradients or skip a step.
    """
    if is_scaled(scaler, optimizer):
        scaler.unscale_(optimizer)


def skip_if(verdict: Float[Tensor, ""], optimizer: torch.optim.Optimizer, on_device: bool) -> None:
    """Make the optimizer's next step change nothing if the verdict is 1.

    Weights, moments and counters of steps stay as they are; nothing decays. Weights that are
    stored on the CPU while the step runs on a GPU need the verdict there, for which this waits.
    """
    weights = (weight for group in optimizer.param_groups for weight in group["params"])
    if on_device and all(weight.device == verdict.device for weight in weights):
        set_skip(optimizer, verdict)
    elif verdict:
        optimizer.zero_grad(set_to_none=True)  # optimizers ignore parameters without a gradient
