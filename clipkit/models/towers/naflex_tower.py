"""Vision transformers of timm that read images of any shape."""

from __future__ import annotations

import re
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.models.towers.base import ImageTower, as_triple
from clipkit.models.towers.projection import Projection, make_projection
from clipkit.models.towers.timm_layers import (
    create_trunk,
    trunk_groups,
    trunk_token_module,
    trunk_tokens,
)
from clipkit.models.towers.tokens import TokenTower
from clipkit.patches import TokenBudget, patch_coordinates, patch_validity


@final
class TimmNaFlexTower(ImageTower, TokenTower):
    """A NaFlexVit of timm without its classifier, and a projection.

    Images keep their shape: they come as patches, with a grid of rows and columns for each. The
    padding of a batch changes no embedding. Square images [B 3 H W] are read, too.

    Args:
        model: A NaFlexVit of timm (``naflexvit_base_patch16_siglip.v2_webli``), or a plain vision
            transformer (``vit_tiny_patch16_224``), which timm converts with its weights.
        embedding_dim: Components of an embedding.
        max_tokens: Largest number of patches of an image, for which memory is planned; evaluation
            uses it, training may use fewer.
        patch_size: Height and width of a patch, in pixels; None for the model's own.
        enlarge: Whether small images are enlarged until they use the budget, as SigLIP 2 does;
            otherwise they get the patches that their own pixels fill.
        pretrained: True for timm's weights, the path of a file of weights of the complete model,
            or False for random initialisation.
        projection: "linear", "mlp" or "none".

    Raises:
        ConfigError: If timm has no such model, cannot build it for patches, or cannot get or read
            the weights.

    Examples:
        >>> tower = TimmNaFlexTower("test_vit", embedding_dim=24, max_tokens=64)
        >>> tower.budget
        TokenBudget(patch_size=16, max_tokens=64, enlarge=True)
    """

    budget: TokenBudget

    def __init__(
        self,
        model: str,
        embedding_dim: int,
        max_tokens: int = 256,
        patch_size: int | None = None,
        enlarge: bool = True,
        pretrained: bool | str = False,
        projection: Projection = "linear",
    ) -> None:
        super().__init__()
        from timm.data import resolve_model_data_config

        trunk = _create(model, pretrained, patch_size)
        preprocess = resolve_model_data_config(trunk)
        self.budget = TokenBudget(trunk.embeds.patch_size[0], max_tokens, enlarge)
        self.image_size = self.budget.square_size
        self.trunk = trunk
        self.projection = make_projection(projection, trunk.head_hidden_size, embedding_dim)
        self.embedding_dim = embedding_dim
        self.image_mean = as_triple(preprocess["mean"])
        self.image_std = as_triple(preprocess["std"])
        self.interpolation = preprocess["interpolation"]
        self.resize_mode = "naflex"
        self._config = {"model": model, "projection": projection}

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"] | Float[Tensor, "B patches values"],
        grids: Int64[Tensor, "B 2"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """Embed normalised images.

        Args:
            images: Patches, padded to the most of an image, as ``clipkit.types.Batch`` holds them;
                or images of one shape, whose sides are multiples of the patch.
            grids: Rows and columns of patches of each image; None for images of one shape.

        Returns:
            Embeddings, not of unit norm.
        """
        if grids is None:
            features = self.trunk(images)
        else:
            num_patches = images.shape[1]
            valid = patch_validity(grids, num_patches)
            features = self.trunk(
                images,
                patch_coord=patch_coordinates(grids, num_patches),
                patch_valid=valid,
                attn_mask=_key_mask(valid, self.trunk.num_prefix_tokens, images.dtype),
            )
        embeddings: Tensor = self.projection(features)
        return embeddings

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this architecture again, without weights or network."""
        return {
            **self._config,
            "embedding_dim": self.embedding_dim,
            "max_tokens": self.budget.max_tokens,
            "patch_size": self.budget.patch_size,
            "enlarge": self.budget.enlarge,
            "pretrained": False,
        }

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the input to the projection; see ``Tower.layer_groups``."""
        groups = [[f"trunk.{name}" for name in group] for group in trunk_groups(self.trunk)]
        head = [f"projection.{name}" for name, _ in self.projection.named_parameters()]
        return [*groups, head] if head else groups

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

    def token_mask(
        self, grids: Int64[Tensor, "B 2"] | None, num_tokens: int
    ) -> Bool[Tensor, "B tokens"] | None:
        """See ``TokenTower.token_mask``."""
        if grids is None:
            return None
        num_prefix = int(self.trunk.num_prefix_tokens)
        return F.pad(patch_validity(grids, num_tokens - num_prefix), (num_prefix, 0), value=True)


def _key_mask(
    valid: Bool[Tensor, "B patches"], num_prefix: int, dtype: torch.dtype
) -> Float[Tensor, "B 1 1 keys"]:
    """Return what is added to the scores of keys: -inf for padding, which no patch attends to.

    timm's default has all pairs of patches for each image, and rows without any key.
    """
    keys = F.pad(valid, (num_prefix, 0), value=True)[:, None, None]
    return torch.zeros_like(keys, dtype=dtype).masked_fill_(~keys, float("-inf"))


def _create(model: str, pretrained: bool | str, patch_size: int | None) -> Any:
    """Build the trunk; a plain vision transformer is converted."""
    import timm

    options: dict[str, Any] = {}
    if patch_size is not None:
        options["patch_size"] = patch_size
    if model.split(".")[0] not in timm.list_models(module="naflexvit"):
        options["use_naflex"] = True
    refusal = ConfigError(
        f"model: timm cannot use {model!r} for patches of images of any shape; use a naflexvit_* "
        f"model or a plain vision transformer such as vit_base_patch16_224"
    )
    try:
        trunk = create_trunk(model, pretrained, options)
    except TypeError as error:
        raise refusal from error
    embeds: Any = getattr(trunk, "embeds", None)
    if embeds is None or not (embeds.is_linear and getattr(embeds, "channels_last", True)):
        raise refusal
    if trunk.rope is not None and not has_exact_rotary_positions():
        raise ConfigError(
            f"model: {model!r} has rotary positions, with which padding changes the embeddings "
            f"before timm 1.0.31, got timm {timm.__version__}; install a later one"
        )
    return trunk


def has_exact_rotary_positions() -> bool:
    """Return whether timm's rotary positions of an image do not depend on the padding."""
    import timm

    version = [int(number) for number in re.findall(r"\d+", timm.__version__)[:3]]
    return version >= [1, 0, 31]
