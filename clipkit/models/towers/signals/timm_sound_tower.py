"""Any image model of timm as a tower for spectrograms."""

from __future__ import annotations

from typing import Any, final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.mel import MelOptions
from clipkit.models.files.structure import structure_only
from clipkit.models.towers.base import Positions, SignalTower
from clipkit.models.towers.patches import project_patches
from clipkit.models.towers.projection import Projection, make_projection
from clipkit.models.towers.signals.normalization import FeatureNormalization
from clipkit.models.towers.signals.shapes import Mel, check_frames, mel_options
from clipkit.models.towers.timm_layers import (
    create_patch_trunk,
    create_trunk,
    num_features,
    trunk_groups,
    trunk_token_module,
    trunk_tokens,
)
from clipkit.models.towers.tokens import TokenTower


@final
class TimmSoundTower(SignalTower, TokenTower):
    """A timm model that reads a spectrogram as an image of one channel, and a projection.

    Mel bands are the rows of the image and frames its columns, as in the Audio Spectrogram
    Transformer (Gong et al. 2021, arXiv:2104.01778). The first convolution of weights for colour
    images is summed over the channels, and positions are interpolated to the spectrogram's size.
    The last patches of a vision transformer are filled up with the mean.

    Args:
        model: A name of ``timm.list_models()``, with or without the tag of its weights.
        embedding_dim: Components of an embedding.
        mel: Parameters of the spectrograms that it reads.
        mean: Mean that is subtracted: one number, or one per mel band; None to learn a batch norm
            of each band.
        std: Standard deviation to divide by: one number, or one per mel band; None if ``mean`` is.
        pretrained: True for timm's weights, the path of a file of weights of the complete model,
            or False for random initialisation.
        projection: "linear", "mlp" or "none".
        patch_dropout: Share of a transformer's patches that training leaves out.

    Raises:
        ConfigError: If timm has no such model, cannot build it at that size, or cannot get or
            read the weights, or the statistics do not fit.

    Examples:
        >>> tower = TimmSoundTower("test_vit", embedding_dim=24, mel=MelOptions(num_frames=100))
        >>> tower(torch.zeros(2, 64, 100)).shape
        torch.Size([2, 24])
    """

    mel: MelOptions
    input_shape: tuple[int, int]

    def __init__(
        self,
        model: str,
        embedding_dim: int,
        mel: Mel,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        pretrained: bool | str = False,
        projection: Projection = "linear",
        patch_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.mel = mel_options(mel)
        self.input_shape = (self.mel.num_mels, self.mel.num_frames)
        # built at its size, so that weights of that size load as they are
        size = _padded_size(model, *self.input_shape)
        options = {"in_chans": 1} if size is None else {"in_chans": 1, "img_size": size}
        trunk = create_patch_trunk(model, pretrained, patch_dropout, options)
        if hasattr(trunk, "embeds"):
            raise ConfigError(
                f"model: {model!r} reads patches of images of any shape; use another model, such "
                f"as vit_tiny_patch16_224"
            )
        project_patches(getattr(trunk, "patch_embed", None), "proj")
        self.normalization = FeatureNormalization(self.mel.num_mels, mean, std)
        self.trunk = trunk
        self.projection = make_projection(projection, num_features(trunk), embedding_dim)
        self.embedding_dim = embedding_dim
        height, width = size or self.input_shape
        self._padding = (0, width - self.mel.num_frames, 0, height - self.mel.num_mels)
        self._config = {"model": model, "projection": projection, "patch_dropout": patch_dropout}

    def forward(self, values: Float[Tensor, "B mels frames"]) -> Float[Tensor, "B D"]:
        """Embed spectrograms.

        Args:
            values: What ``clipkit.mel.log_mel`` returns for each sound.

        Returns:
            Embeddings, not of unit norm.

        Raises:
            ConfigError: If the spectrograms have another shape.
        """
        check_frames(values, *self.input_shape, "TimmSoundTower")
        images = F.pad(self.normalization(values), self._padding).unsqueeze(1)
        embeddings: Tensor = self.projection(self.trunk(images))
        return embeddings

    def positions(self) -> Positions:
        """Return the size with padding, and the grid of a vision transformer's patches."""
        _, right, _, bottom = self._padding
        grid = getattr(getattr(self.trunk, "patch_embed", None), "grid_size", None)
        return Positions(
            self.mel.num_mels + bottom,
            self.mel.num_frames + right,
            None if grid is None else (int(grid[0]), int(grid[1])),
        )

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this architecture again, without weights or network."""
        return {
            **self._config,
            "embedding_dim": self.embedding_dim,
            "mel": self.mel.config(),
            **self.normalization.config(),
            "pretrained": False,
        }

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the input to the projection; see ``Tower.layer_groups``."""
        groups = [[f"trunk.{name}" for name in group] for group in trunk_groups(self.trunk)]
        ends = [
            [f"{part}.{name}" for name, _ in getattr(self, part).named_parameters()]
            for part in ("normalization", "projection")
        ]
        return [group for group in (ends[0], *groups, ends[1]) if group]

    @property
    def token_dim(self) -> int:
        """See ``TokenTower.token_dim``."""
        return int(self.trunk.num_features)

    def token_module(self) -> nn.Module:
        """See ``TokenTower.token_module``."""
        return trunk_token_module(self.trunk)

    def as_tokens(self, inputs: tuple[Any, ...], output: Any) -> Float[Tensor, "B tokens width"]:
        """See ``TokenTower.as_tokens``; class and register tokens are the first."""
        return trunk_tokens(self.trunk, inputs, output)


def _padded_size(model: str, num_mels: int, num_frames: int) -> tuple[int, int] | None:
    """Return the input size of a model of fixed size: complete patches; None for any size."""
    import timm

    cfg = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    if cfg is None or not cfg.fixed_input_size:
        return None
    with structure_only():
        patches = getattr(create_trunk(model, False, {}), "patch_embed", None)
    height, width = getattr(patches, "patch_size", (1, 1))
    return -(-num_mels // height) * height, -(-num_frames // width) * width
