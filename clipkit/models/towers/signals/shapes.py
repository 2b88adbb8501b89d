"""The shape of spectrograms and series of frames that a tower reads."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.mel import MelOptions

_NDIM = 3

Mel = MelOptions | dict[str, Any]
"""Parameters of a spectrogram, or their plain types, as ``MelOptions.config()`` returns them."""


def mel_options(mel: Mel) -> MelOptions:
    """Return the parameters of a spectrogram.

    Raises:
        ConfigError: If a name is unknown or a value cannot be used.
    """
    return mel if isinstance(mel, MelOptions) else MelOptions.from_config(mel)


def check_frames(
    values: Float[Tensor, "B features frames"], num_features: int, num_frames: int | None, name: str
) -> None:
    """Refuse values of another shape.

    Args:
        values: Input of a tower.
        num_features: Number of features of a frame.
        num_frames: Number of frames that the tower reads; None for any.
        name: Class of the tower, for the message.

    Raises:
        ConfigError: If the shape differs.

    Examples:
        >>> check_frames(torch.zeros(2, 64, 100), 64, 100, "TcnTower")
    """
    shape = list(values.shape)
    if (
        len(shape) == _NDIM
        and shape[1] == num_features
        and (shape[2] == num_frames or (num_frames is None and shape[2] > 0))
    ):
        return
    frames = "any number of" if num_frames is None else num_frames
    raise ConfigError(
        f"values: {name} reads [batch, {num_features} features, {frames} frames], got {shape}; "
        f"set the sizes of the tower to those of the data, or the reverse"
    )
