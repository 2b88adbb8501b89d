"""A temporal convolutional network as a tower for sound and video in time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal, final

from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError, check_at_least, check_choice, check_range
from clipkit.mel import MelOptions
from clipkit.models.towers.base import SignalTower, group_by_block
from clipkit.models.towers.projection import Projection, make_projection
from clipkit.models.towers.signals.normalization import FeatureNormalization
from clipkit.models.towers.signals.shapes import Mel, check_frames, mel_options
from clipkit.models.towers.signals.temporal_blocks import TemporalBlock
from clipkit.models.towers.tokens import TokenTower

_BLOCK: Final = re.compile(r"^blocks\.(\d+)\.")
_MOST_BLOCKS: Final = 16  # the distance doubles with each


@final
class TcnTower(SignalTower, TokenTower):
    """Dilated convolutions over the features of frames, pooled over time, and a projection.

    Features are mel bands of a sound, or embeddings of the images of a video. Block ``i`` combines
    frames at a distance of 2^i (Bai et al. 2018, arXiv:1803.01271), so that the frames that an
    output sees (``receptive_field``) double with each block. Nothing is masked: a series may have
    any number of frames, but padding inside a batch would be read as frames.

    Args:
        embedding_dim: Components of an embedding.
        mel: Parameters of the spectrograms that it reads; None for other series.
        input_shape: Number of features of a frame, and of frames of a series; None for those of
            ``mel``. Series with other numbers of frames are read, too.
        width: Number of filters of each convolution.
        num_blocks: Number of residual blocks, of two convolutions each.
        kernel_size: Number of frames that a filter combines; odd, unless ``causal``.
        causal: Whether a frame sees only itself and earlier frames, for series that are embedded
            while they arrive; otherwise as many later frames.
        pooling: "mean" over the frames, or the "last" of them.
        dropout: Probability of a channel to be zero in training.
        mean: Mean that is subtracted: one number, or one per feature; None to learn a batch norm of
            each feature.
        std: Standard deviation to divide by: one number, or one per feature; None if ``mean`` is.
        projection: "linear", "mlp" or "none".

    Raises:
        ConfigError: If an option is out of range, the statistics do not fit, or not exactly one of
            ``mel`` and ``input_shape`` is given.

    Examples:
        >>> tower = TcnTower(embedding_dim=24, input_shape=(16, 50), num_blocks=3)
        >>> tower(torch.zeros(2, 16, 50)).shape, tower.receptive_field
        (torch.Size([2, 24]), 29)
    """

    input_shape: tuple[int, int]

    def __init__(
        self,
        embedding_dim: int,
        mel: Mel | None = None,
        input_shape: tuple[int, int] | None = None,
        width: int = 256,
        num_blocks: int = 6,
        kernel_size: int = 3,
        causal: bool = False,
        pooling: Literal["mean", "last"] = "mean",
        dropout: float = 0.1,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        projection: Projection = "linear",
    ) -> None:
        _check_options(width, num_blocks, kernel_size, causal, dropout)
        check_choice("pooling", pooling, ("mean", "last"))
        super().__init__()
        self.mel = None if mel is None else mel_options(mel)
        self.input_shape = _shape(self.mel, input_shape)
        num_features = self.input_shape[0]
        self.normalization = FeatureNormalization(num_features, mean, std)
        channels = [num_features, *[width] * (num_blocks - 1)]
        self.blocks = nn.Sequential(
            *(
                TemporalBlock(in_channels, width, kernel_size, 2**number, causal, dropout)
                for number, in_channels in enumerate(channels)
            )
        )
        self.projection = make_projection(projection, width, embedding_dim)
        self.embedding_dim = embedding_dim
        self.receptive_field = 1 + 2 * (kernel_size - 1) * (2**num_blocks - 1)
        self._pooling, self._projection = pooling, projection
        self._sizes = {"width": width, "num_blocks": num_blocks, "kernel_size": kernel_size}
        self._causal, self._dropout = causal, dropout

    def forward(self, values: Float[Tensor, "B features frames"]) -> Float[Tensor, "B D"]:
        """Embed series of frames.

        Args:
            values: Features of frames; any number of frames, the same for all samples.

        Returns:
            Embeddings, not of unit norm.

        Raises:
            ConfigError: If frames have another number of features.
        """
        num_features = self.input_shape[0]
        check_frames(values, num_features, None, "TcnTower")
        states = self.blocks(self.normalization(values))
        pooled = states.mean(dim=2) if self._pooling == "mean" else states[:, :, -1]
        embeddings: Tensor = self.projection(pooled)
        return embeddings

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this architecture again, without weights."""
        return {
            "embedding_dim": self.embedding_dim,
            "mel": None if self.mel is None else self.mel.config(),
            "input_shape": list(self.input_shape) if self.mel is None else None,
            **self._sizes,
            "causal": self._causal,
            "pooling": self._pooling,
            "dropout": self._dropout,
            **self.normalization.config(),
            "projection": self._projection,
        }

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the input to the projection; see ``Tower.layer_groups``."""
        names = (name for name, _ in self.named_parameters())
        return group_by_block(names, block=_BLOCK, first=("normalization",))

    @property
    def token_dim(self) -> int:
        """See ``TokenTower.token_dim``."""
        return self._sizes["width"]

    def token_module(self) -> nn.Module:
        """See ``TokenTower.token_module``."""
        return self.blocks

    def as_tokens(self, inputs: tuple[Any, ...], output: Any) -> Float[Tensor, "B tokens width"]:
        """See ``TokenTower.as_tokens``; a token per frame."""
        del inputs
        states: Tensor = output.transpose(1, 2)
        return states


def _shape(mel: MelOptions | None, input_shape: Sequence[int] | None) -> tuple[int, int]:
    """Return the number of features and of frames."""
    if mel is not None and input_shape is None:
        return mel.num_mels, mel.num_frames
    if mel is not None or input_shape is None or len(input_shape) != 2:
        raise ConfigError(
            f"input_shape: expected [features, frames], or mel for sounds, and not both, got "
            f"input_shape={input_shape!r} and {'no mel' if mel is None else 'mel'}"
        )
    num_features, num_frames = input_shape
    check_at_least("input_shape[0]", num_features, 1)
    check_at_least("input_shape[1]", num_frames, 1)
    return num_features, num_frames


def _check_options(
    width: int, num_blocks: int, kernel_size: int, causal: bool, dropout: float
) -> None:
    check_at_least("width", width, 1)
    check_range("num_blocks", num_blocks, 1, _MOST_BLOCKS)
    check_at_least("kernel_size", kernel_size, 1)
    if not causal and kernel_size % 2 == 0:
        raise ConfigError(
            f"kernel_size: expected an odd number, which has a centre, got {kernel_size}; set "
            f"causal: true for an even one"
        )
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout: expected 0 up to but not 1, got {dropout}")
