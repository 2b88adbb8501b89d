"""Scale and bias of similarities: parameters of every encoder, whatever its towers."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError

SOFTMAX_LOGIT_SCALE = 1 / 0.07
"""Initial scale for the softmax loss (Radford et al. 2021, section 2.5)."""


class ScaledSimilarities(nn.Module, ABC):
    """Scale and bias of the similarities of an encoder (abstract); see ``TowerEncoder``."""

    def __init__(
        self, logit_scale: float, logit_bias: float | None, max_logit_scale: float | None
    ) -> None:
        check_scale(logit_scale, max_logit_scale)
        super().__init__()
        self.max_logit_scale = max_logit_scale
        self._start = (logit_scale, logit_bias)
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self.logit_bias = (
            None if logit_bias is None else nn.Parameter(torch.tensor(float(logit_bias)))
        )

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """Inverse temperature, linear, at most ``max_logit_scale``."""
        return self.limited(self.log_logit_scale)

    def scale_with_text(self, name: str) -> Float[Tensor, ""]:  # noqa: ARG002 (one for all)
        """Inverse temperature of a modality with texts, linear, which may be the pair's own."""
        return self.logit_scale

    @property
    def pair_scales(self) -> dict[str, Float[Tensor, ""]]:
        """Inverse temperature of each pair of modalities that has one of its own, linear."""
        return {}

    @property
    def scales(self) -> dict[str, Float[Tensor, ""]]:
        """All inverse temperatures by the name that they are logged under."""
        own = {f"logit_scale_{p.replace(':', '_')}": one for p, one in self.pair_scales.items()}
        return {"logit_scale": self.logit_scale, **own}

    def limited(self, log: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return the scale of a logarithm, at most ``max_logit_scale``."""
        if self.max_logit_scale is not None:
            # not torch.clamp: at the limit rounding alone would make it drop the gradient
            log = log - (log - math.log(self.max_logit_scale)).clamp(min=0).detach()
        return log.exp()

    def log_scale_of(self, pair: str | None) -> nn.Parameter:
        """Return the parameter of a scale, its logarithm.

        Args:
            pair: "first:second", two modalities with a scale of their own; None for that of all
                others.

        Raises:
            ConfigError: If the pair has no scale of its own.
        """
        if pair is not None:
            raise ConfigError(
                f"logit_scale: expected no pair, as all of them have one scale, got {pair!r}; a "
                f"MultimodalEncoder has others with pair_scales"
            )
        return self.log_logit_scale

    def set_logit_scale(self, scale: float, pair: str | None = None) -> None:
        """Set a scale, as a schedule does.

        Args:
            scale: Inverse temperature, linear.
            pair: Which scale; see ``log_scale_of``.

        Raises:
            ConfigError: If it is not positive, or exceeds ``max_logit_scale``, or the pair has no
                scale of its own.
        """
        check_scale(scale, self.max_logit_scale)
        with torch.no_grad():
            self.log_scale_of(pair).fill_(math.log(scale))

    def limit_logit_scale(self) -> None:
        """Reset the parameter to the limit if an optimizer step exceeded it.

        ``forward`` does this while training. Limiting only the value that the loss sees would
        leave the parameter without a gradient above the limit, so that it could not decrease.
        """
        if self.max_logit_scale is not None:
            with torch.no_grad():
                self.log_logit_scale.clamp_(max=math.log(self.max_logit_scale))

    def config(self) -> dict[str, Any]:
        """Return the plain arguments, without towers and head, that rebuild this encoder."""
        logit_scale, logit_bias = self._start
        return {
            "logit_scale": logit_scale,
            "logit_bias": logit_bias,
            "max_logit_scale": self.max_logit_scale,
        }


@final
class PairScales(nn.ParameterDict):
    """Logarithms of the scales of pairs of modalities; the order of the two does not matter.

    Args:
        pairs: Pairs, each as "first:second".
        logit_scale: Initial inverse temperature of all, linear.
    """

    def __init__(self, pairs: Sequence[str], logit_scale: float) -> None:
        log = math.log(logit_scale)
        super().__init__({pair: nn.Parameter(torch.tensor(log)) for pair in pairs})

    def find(self, first: str, second: str) -> nn.Parameter | None:
        """Return the parameter of a pair; None if it has none of its own."""
        own = (self.get(pair) for pair in (f"{first}:{second}", f"{second}:{first}"))
        return next((log for log in own if log is not None), None)

    def of(self, pair: str) -> nn.Parameter:
        """Return the parameter of a pair.

        Raises:
            ConfigError: If the pair has no scale of its own.
        """
        own = self.find(*pair.partition(":")[::2])
        if own is None:
            known = ", ".join(self) or "none"
            raise ConfigError(
                f"logit_scale: expected a pair with a scale of its own ({known}), got {pair!r}; "
                f"name it in the encoder's pair_scales"
            )
        return own

    def limit(self, max_logit_scale: float) -> None:
        """Reset the scales to the limit if an optimizer step exceeded it."""
        with torch.no_grad():
            for log in self.values():
                log.clamp_(max=math.log(max_logit_scale))


def check_scale(logit_scale: float, max_logit_scale: float | None) -> None:
    """Refuse a scale that is not positive, or above its limit."""
    if logit_scale <= 0:
        raise ConfigError(
            f"logit_scale: expected the linear scale, more than 0, got {logit_scale} "
            f"(a logarithm must be exponentiated)"
        )
    if max_logit_scale is not None and logit_scale > max_logit_scale:
        raise ConfigError(
            f"logit_scale: expected at most max_logit_scale = {max_logit_scale}, got {logit_scale}"
        )
