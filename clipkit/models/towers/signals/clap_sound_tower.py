"""CLAP's audio branch, HTS-AT, of transformers."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, final

from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError, check_choice
from clipkit.mel import MelOptions
from clipkit.models.files.state_dicts import load_exactly
from clipkit.models.files.structure import is_structure_only
from clipkit.models.towers.base import SignalTower
from clipkit.models.towers.projection import make_projection
from clipkit.models.towers.signals.laion_clap import (
    architecture_of,
    is_weights_file,
    read_audio_weights,
    to_transformers_names,
)
from clipkit.models.towers.signals.shapes import Mel, check_frames, mel_options
from clipkit.models.towers.tokens import TokenTower, channels_as_tokens
from clipkit.models.towers.transformers_config import build_own, read_architecture

_COMPUTED = ("relative_position_index", "num_batches_tracked")
"""Buffers that a file of weights may lack."""
_STAGE = re.compile(r"\.layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.")


@final
class ClapSoundTower(SignalTower, TokenTower):
    """HTS-AT as CLAP's audio branch, with CLAP's projection or another one.

    A Swin transformer over a spectrogram (Chen et al. 2022, arXiv:2202.00874; Wu et al. 2023,
    arXiv:2211.06687). Each mel band has a batch norm of its own. Of weights with feature fusion,
    the part for the complete sound is used, as for a sound that is not longer than a crop.

    Args:
        model: A folder or a name on the Hugging Face hub with a CLAP model
            (``laion/clap-htsat-unfused``); a file of weights of ``laion_clap`` (``.pt`` or
            ``.safetensors``), whose shapes determine the architecture; or a configuration as a
            dictionary with ``model_type`` "clap" or "clap_audio_model".
        embedding_dim: Components of an embedding; None for those of CLAP's projection.
        pretrained: Whether to load the weights of ``model``; otherwise random initialisation.
        projection: "clap" for the projection to CLAP's space, with its weights; or "linear", "mlp"
            or "none".
        mel: Parameters of the spectrograms that it reads; None for CLAP's own, of ten seconds at 48
            kHz with the padding "repeat-zero". With fewer frames, they are stretched to the size of
            the transformer.

    Raises:
        ConfigError: If the model cannot be found, is none of CLAP, or the options do not fit it.
        CheckpointError: If a file of weights cannot be read, is incomplete or none of CLAP.

    Examples:
        >>> htsat = {"model_type": "clap_audio_model", "spec_size": 64, "num_mel_bins": 16,
        ...          "depths": [1, 1], "num_attention_heads": [2, 4], "hidden_size": 32,
        ...          "patch_embeds_hidden_size": 16, "window_size": 4, "projection_dim": 24}
        >>> mel = MelOptions(num_mels=16, num_frames=200)
        >>> tower = ClapSoundTower(htsat, pretrained=False, mel=mel)
        >>> tower.embedding_dim, tower.input_shape
        (24, (16, 200))
    """

    mel: MelOptions
    input_shape: tuple[int, int]

    def __init__(
        self,
        model: str | dict[str, Any],
        embedding_dim: int | None = None,
        pretrained: bool = True,
        projection: Literal["clap", "linear", "mlp", "none"] = "clap",
        mel: Mel | None = None,
    ) -> None:
        check_choice("projection", projection, ("clap", "linear", "mlp", "none"))
        super().__init__()
        from transformers import ClapAudioModelWithProjection

        weights = read_audio_weights(str(model)) if is_weights_file(model) else None
        described = model if weights is None else architecture_of(weights, str(model))
        architecture = _audio_architecture(described)
        own = MelOptions.clap() if mel is None else mel_options(mel)
        _check_sizes(architecture, own)
        self.mel = own
        self.embedding_dim = _embedding_dim(architecture, embedding_dim, projection)
        is_named = pretrained and weights is None
        clap = build_own(ClapAudioModelWithProjection, model, architecture, is_named)
        if pretrained and weights is not None and not is_structure_only():
            _load_laion(clap, weights, str(model))
        self.trunk: Any = clap.audio_model
        self.projection = (
            clap.audio_projection
            if projection == "clap"
            else make_projection(projection, architecture.hidden_size, self.embedding_dim)
        )
        self.input_shape = (own.num_mels, own.num_frames)
        self._config = {"model": architecture.to_dict(), "projection": projection}

    def forward(self, values: Float[Tensor, "B mels frames"]) -> Float[Tensor, "B D"]:
        """Embed spectrograms.

        Args:
            values: What ``clipkit.mel.log_mel`` returns for each sound.

        Returns:
            Embeddings, not of unit norm.

        Raises:
            ConfigError: If the spectrograms have another shape.
        """
        check_frames(values, *self.input_shape, "ClapSoundTower")
        features = self.trunk(input_features=values.transpose(1, 2).unsqueeze(1)).pooler_output
        embeddings: Tensor = self.projection(features)
        return embeddings

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this architecture again, without weights or network."""
        return {
            **self._config,
            "embedding_dim": self.embedding_dim,
            "pretrained": False,
            "mel": self.mel.config(),
        }

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the mel bands to the projection; see ``Tower.layer_groups``."""
        return _group_by_stage(name for name, _ in self.named_parameters())

    @property
    def token_dim(self) -> int:
        """See ``TokenTower.token_dim``."""
        return int(self.trunk.config.hidden_size)

    def token_module(self) -> nn.Module:
        """See ``TokenTower.token_module``."""
        part: nn.Module = self.trunk
        return part

    def as_tokens(self, inputs: tuple[Any, ...], output: Any) -> Float[Tensor, "B tokens width"]:
        """See ``TokenTower.as_tokens``."""
        del inputs
        states: Tensor = channels_as_tokens(output.last_hidden_state, self.token_dim)
        return states


def _load_laion(clap: Any, weights: Mapping[str, Tensor], path: str) -> None:
    """Load weights under the names of laion_clap; indices of positions are computed."""
    own = clap.state_dict()
    given = to_transformers_names(weights, own)
    computed = {n: v for n, v in own.items() if n.endswith(_COMPUTED) and n not in given}
    load_exactly(clap, {**computed, **given}, path)


def _group_by_stage(names: Iterable[str]) -> list[list[str]]:
    """Sort parameter names by depth: input, blocks and reductions of each stage, output."""
    groups: dict[tuple[float, float], list[str]] = {}
    for name in names:
        if match := _STAGE.search(name):
            stage, block = match.groups()
            depth = (float(stage), float("inf") if block is None else float(block))
        elif any(part in name for part in ("patch_embed", "batch_norm")):
            depth = (-1, 0)
        else:
            depth = (float("inf"), 0)
        groups.setdefault(depth, []).append(name)
    return [groups[depth] for depth in sorted(groups)]


def _audio_architecture(model: str | dict[str, Any]) -> Any:
    """Return the configuration of CLAP's audio branch, without feature fusion."""
    from transformers import AutoConfig, ClapAudioConfig

    # transformers 5.0 knows the name of the complete model alone.
    AutoConfig.register(ClapAudioConfig.model_type, ClapAudioConfig, exist_ok=True)
    architecture = read_architecture(model)
    if architecture.model_type == "clap":
        architecture = architecture.audio_config
    if architecture.model_type != "clap_audio_model":
        raise ConfigError(
            f"model: expected a CLAP model, with model_type 'clap' or 'clap_audio_model', got "
            f"{architecture.model_type!r}"
        )
    if architecture.enable_fusion and architecture.fusion_type == "channel_map":
        raise ConfigError(
            "model: a CLAP model with fusion_type 'channel_map' mixes four crops of a sound in its "
            "first layer; use one with 'aff_2d' or without fusion, such as laion/clap-htsat-unfused"
        )
    architecture = copy.deepcopy(architecture)
    architecture.enable_fusion = False
    return architecture


def _check_sizes(architecture: Any, mel: MelOptions) -> None:
    size, num_mels = architecture.spec_size, architecture.num_mel_bins
    if num_mels < 1 or size % num_mels:
        raise ConfigError(
            f"model: num_mel_bins: expected a divisor of spec_size = {size}, got {num_mels}"
        )
    width = architecture.patch_embeds_hidden_size * 2 ** (len(architecture.depths) - 1)
    if architecture.hidden_size != width:
        raise ConfigError(
            f"model: hidden_size: expected {width}, which its stages return, got "
            f"{architecture.hidden_size}"
        )
    if mel.num_mels != num_mels:
        raise ConfigError(f"mel.num_mels: this model reads {num_mels} bands, got {mel.num_mels}")
    most = size * (size // num_mels)
    if mel.num_frames > most:
        raise ConfigError(
            f"mel.num_frames: this model reads at most {most} frames, got {mel.num_frames}; use "
            f"shorter sounds, or a larger mel.hop"
        )


def _embedding_dim(architecture: Any, embedding_dim: int | None, projection: str) -> int:
    own = int(architecture.projection_dim)
    if projection == "clap":
        if embedding_dim not in (None, own):
            raise ConfigError(
                f"embedding_dim: CLAP's projection returns {own} components, got {embedding_dim}; "
                f"omit it, or use projection: linear"
            )
        return own
    if embedding_dim is None:
        raise ConfigError(f"embedding_dim: required with projection: {projection}")
    return embedding_dim
