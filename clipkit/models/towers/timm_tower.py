"""Any image model of timm as a tower."""

from __future__ import annotations

from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from clipkit.models.towers.base import ImageTower, as_triple
from clipkit.models.towers.patches import project_patches
from clipkit.models.towers.projection import Projection, make_projection
from clipkit.models.towers.timm_layers import (
    create_patch_trunk,
    fit_input_size,
    num_features,
    trunk_groups,
    trunk_token_module,
    trunk_tokens,
)
from clipkit.models.towers.tokens import TokenTower


@final
class TimmImageTower(ImageTower, TokenTower):
    """A timm model without its classifier, and a projection.

    Images are normalised as timm's weights of that model expect.

    Args:
        model: A name of ``timm.list_models()``, with or without the tag of its weights.
        embedding_dim: Components of an embedding.
        image_size: Height and width of the images, in pixels; None for the model's default.
        pretrained: True for timm's weights, the path of a file of weights of the complete model,
            or False for random initialisation.
        projection: "linear", "mlp" or "none".
        patch_dropout: Share of a transformer's patches that training leaves out.

    Raises:
        ConfigError: If timm has no such model, cannot build it at that size, or cannot get or
            read the weights.

    Examples:
        >>> TimmImageTower("test_vit", embedding_dim=24, image_size=64).image_size
        64
    """

    def __init__(
        self,
        model: str,
        embedding_dim: int,
        image_size: int | None = None,
        pretrained: bool | str = False,
        projection: Projection = "linear",
        patch_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        from timm.data import resolve_model_data_config

        trunk = create_patch_trunk(model, pretrained, patch_dropout)
        preprocess = resolve_model_data_config(trunk)
        self.image_size = image_size or int(preprocess["input_size"][-1])
        fit_input_size(trunk, self.image_size, option="image_size")
        project_patches(getattr(trunk, "patch_embed", None), "proj")
        self.trunk = trunk
        self.projection = make_projection(projection, num_features(trunk), embedding_dim)
        self.embedding_dim = embedding_dim
        self.image_mean = as_triple(preprocess["mean"])
        self.image_std = as_triple(preprocess["std"])
        self.interpolation = preprocess["interpolation"]
        self.resize_mode = "shortest"
        self._config = {"model": model, "projection": projection, "patch_dropout": patch_dropout}

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Embed normalised images; see ``ImageTower.forward``."""
        embeddings: Tensor = self.projection(self.trunk(images))
        return embeddings

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this architecture again, without weights or network."""
        sizes = {"embedding_dim": self.embedding_dim, "image_size": self.image_size}
        return {**self._config, **sizes, "pretrained": False}

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
