"""Whisper's encoder of transformers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final, final

from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.mel import PIECE, MelOptions
from clipkit.models.towers.base import Positions, SignalTower, group_by_block
from clipkit.models.towers.projection import Projection, make_projection
from clipkit.models.towers.signals.shapes import check_frames
from clipkit.models.towers.tokens import TokenTower
from clipkit.models.towers.transformers_config import build_own, read_architecture

_BLOCK: Final = re.compile(r"^trunk\.layers\.(\d+)\.")
_FIRST: Final = ("trunk.conv", "trunk.embed_positions")
_STRIDE: Final = 2
_OFFSET: Final = 4.0  # with which values are near -1 to 1


@final
class WhisperSoundTower(SignalTower, TokenTower):
    """Whisper's encoder, the mean of its states over time, and a projection.

    The encoder is that of Radford et al. 2022, arXiv:2212.04356; its decoder is not kept. It reads
    the spectrograms of ``MelOptions.whisper()``.

    Args:
        model: A folder or a name on the Hugging Face hub with a Whisper model
            (``openai/whisper-tiny``), or a configuration as a dictionary with ``model_type``
            "whisper".
        embedding_dim: Components of an embedding.
        pretrained: Whether to load the weights of ``model``; otherwise random initialisation.
        projection: "linear", "mlp" or "none".
        num_frames: Number of frames of a spectrogram, even; None for the model's own, 3000 for 30
            seconds. With fewer, only the positions of the first frames are kept, so that short
            sounds need no padding.
        crop: Which piece of a longer sound evaluation reads: "centre" or "start".
        padding: How a shorter sound is filled up: "repeat", "repeat-zero", or "zero" as in the
            training of Whisper.

    Raises:
        ConfigError: If the model cannot be found, is no Whisper, or the options do not fit it.

    Examples:
        >>> whisper = {"model_type": "whisper", "num_mel_bins": 16, "d_model": 32,
        ...            "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
        >>> tower = WhisperSoundTower(whisper, embedding_dim=24, pretrained=False, num_frames=100)
        >>> tower(torch.zeros(2, 16, 100)).shape
        torch.Size([2, 24])
    """

    mel: MelOptions
    input_shape: tuple[int, int]

    def __init__(
        self,
        model: str | dict[str, Any],
        embedding_dim: int,
        pretrained: bool = True,
        projection: Projection = "linear",
        num_frames: int | None = None,
        crop: str = PIECE["crop"],
        padding: str = PIECE["padding"],
    ) -> None:
        super().__init__()
        architecture = read_architecture(model)
        if architecture.model_type != "whisper":
            raise ConfigError(
                f"model: expected a Whisper model, with model_type 'whisper', got "
                f"{architecture.model_type!r}"
            )
        num_frames = _check_num_frames(architecture, num_frames)
        architecture.encoder_layerdrop = 0.0  # no gradient would reach a dropped layer
        self.trunk: Any = _encoder(model, architecture, pretrained)
        _keep_positions(self.trunk, num_frames // _STRIDE)
        self.projection = make_projection(projection, architecture.d_model, embedding_dim)
        self.embedding_dim = embedding_dim
        own = MelOptions.whisper(int(architecture.num_mel_bins))
        self.mel = replace(own, num_frames=num_frames, crop=crop, padding=padding)
        self.input_shape = (self.mel.num_mels, num_frames)
        self._config = {"model": architecture.to_dict(), "projection": projection}

    def forward(self, values: Float[Tensor, "B mels frames"]) -> Float[Tensor, "B D"]:
        """Embed spectrograms.

        Args:
            values: What ``clipkit.mel.log_mel`` returns for each sound; Whisper's scaling follows
                inside.

        Returns:
            Embeddings, not of unit norm.

        Raises:
            ConfigError: If the spectrograms have another shape.
        """
        check_frames(values, *self.input_shape, "WhisperSoundTower")
        states = self.trunk((values + _OFFSET) / _OFFSET).last_hidden_state
        embeddings: Tensor = self.projection(states.mean(dim=1))
        return embeddings

    def positions(self) -> Positions:
        """Return the size of a spectrogram, whose tokens are moments, each of all bands."""
        num_mels, num_frames = self.input_shape
        return Positions(num_mels, num_frames, (1, num_frames // _STRIDE))

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this architecture again, without weights or network."""
        return {
            **self._config,
            "embedding_dim": self.embedding_dim,
            "pretrained": False,
            "num_frames": self.mel.num_frames,
            **{name: value for name, value in self.mel.config().items() if name in PIECE},
        }

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the mel bands to the projection; see ``Tower.layer_groups``."""
        names = (name for name, _ in self.named_parameters())
        return group_by_block(names, block=_BLOCK, first=_FIRST)

    @property
    def token_dim(self) -> int:
        """See ``TokenTower.token_dim``."""
        return int(self.trunk.config.d_model)

    def token_module(self) -> nn.Module:
        """See ``TokenTower.token_module``."""
        part: nn.Module = self.trunk
        return part

    def as_tokens(self, inputs: tuple[Any, ...], output: Any) -> Float[Tensor, "B tokens width"]:
        """See ``TokenTower.as_tokens``."""
        del inputs
        states: Tensor = output.last_hidden_state
        return states


def _encoder(model: str | dict[str, Any], architecture: Any, pretrained: bool) -> Any:
    """Build the encoder alone; to load weights, the decoder is built for a moment, too."""
    from transformers import WhisperModel
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    if pretrained:
        return build_own(WhisperModel, model, architecture, pretrained).get_encoder()
    return build_own(WhisperEncoder, model, architecture, pretrained)


def _check_num_frames(architecture: Any, num_frames: int | None) -> int:
    most = int(architecture.max_source_positions) * _STRIDE
    if num_frames is None:
        return most
    if num_frames % _STRIDE or not 0 < num_frames <= most:
        raise ConfigError(
            f"num_frames: expected an even number from 2 to {most}, twice the positions of this "
            f"model, got {num_frames}"
        )
    return num_frames


def _keep_positions(encoder: Any, count: int) -> None:
    """Keep the first positions, which Whisper does not train."""
    weight = encoder.embed_positions.weight.detach()[:count].clone()
    positions = nn.Embedding(count, weight.shape[1], _weight=weight)
    encoder.embed_positions = positions.requires_grad_(False)
    encoder.max_source_positions = encoder.config.max_source_positions = count
