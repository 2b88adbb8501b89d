"""Normalise each feature of a series of frames, such as each mel band of a spectrogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError

Values = float | Sequence[float]
"""One number for all features, or one number per feature."""


@final
class FeatureNormalization(nn.Module):
    """Normalise features of frames, by given statistics or by learned ones.

    Without statistics, this is a batch norm of each feature over samples and frames, as in PANNs
    (Kong et al. 2020, arXiv:1912.10211, section III) and HTS-AT.

    Args:
        num_features: Number of features of a frame.
        mean: Mean that is subtracted: one number, or one per feature; None for the statistics of
            the training data, which are learned.
        std: Standard deviation to divide by: one number, or one per feature; None if ``mean`` is.

    Raises:
        ConfigError: If only one of both is given, a number is missing, or a deviation is not
            positive.

    Examples:
        >>> normalize = FeatureNormalization(3, mean=1.0, std=[1.0, 2.0, 4.0])
        >>> normalize(torch.full((1, 3, 2), 5.0))[0, :, 0].tolist()
        [4.0, 2.0, 1.0]
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, num_features: int, mean: Values | None = None, std: Values | None = None
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            missing = "mean" if mean is None else "std"
            raise ConfigError(
                f"{missing}: expected both mean and std, or neither to learn them, got only one"
            )
        self.norm = nn.BatchNorm1d(num_features) if mean is None else None
        self._config = {"mean": _plain(mean), "std": _plain(std)}
        for name, values in self._config.items():
            if values is not None:
                column = _column(name, values, num_features)
                self.register_buffer(name, column, persistent=False)

    def forward(
        self, values: Float[Tensor, "B features frames"]
    ) -> Float[Tensor, "B features frames"]:
        """Normalise each feature over its frames."""
        if self.norm is None:
            return (values - self.mean) / self.std
        normalized: Tensor = self.norm(values)
        return normalized

    def config(self) -> dict[str, Any]:
        """Return ``mean`` and ``std`` as plain types."""
        return dict(self._config)


def _plain(values: Values | None) -> float | list[float] | None:
    if values is None or isinstance(values, int | float):
        return values
    return [float(value) for value in values]


def _column(
    option: str, values: float | list[float], num_features: int
) -> Float[Tensor, "features 1"]:
    """Return one number per feature; refuse another count, and deviations that are not above 0."""
    given = [values] if isinstance(values, int | float) else values
    if len(given) not in (1, num_features):
        raise ConfigError(
            f"{option}: expected one number, or {num_features}, one per feature, got {len(given)}"
        )
    if option == "std" and not min(given) > 0:
        raise ConfigError(f"std: expected numbers above 0, got {min(given)}")
    column = torch.tensor(given, dtype=torch.get_default_dtype()).reshape(-1, 1)
    # Not expanded: DDP sends buffers in place, for which each element needs memory of its own.
    return column if len(given) == num_features else column.repeat(num_features, 1)
