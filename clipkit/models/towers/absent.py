"""What stands in for the image tower or the text tower of an encoder that has none."""

from __future__ import annotations

from typing import Any, NoReturn, final

from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.models.towers.base import ImageTower, TextTower


@final
class NoImageTower(ImageTower):
    """Image tower without parameters, which reads nothing.

    Args:
        embedding_dim: Components of an embedding of the other towers.
    """

    reads_images = False
    image_size = 1
    image_mean = image_std = (0.5, 0.5, 0.5)
    interpolation = "bicubic"
    resize_mode = "shortest"

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> NoReturn:  # noqa: ARG002
        """Refuse images."""
        raise ConfigError("image_tower: this encoder has none, so it cannot embed images")

    def config(self) -> dict[str, Any]:
        """See `Tower.config`."""
        return {"embedding_dim": self.embedding_dim}

    def layer_groups(self) -> list[list[str]]:
        """See `Tower.layer_groups`."""
        return []


@final
class NoTextTower(TextTower):
    """Text tower without parameters, which reads nothing.

    Captions are still tokenized, because a sample has one, but no tower reads the tokens.

    Args:
        embedding_dim: Components of an embedding of the other towers.
    """

    context_length = 77
    vocab_size = 49408
    pad_id = 0
    tokenizer_name = "open_clip:ViT-B-32"
    trims_exactly = True

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim

    def forward(self, tokens: Int64[Tensor, "B S"]) -> NoReturn:  # noqa: ARG002
        """Refuse texts."""
        raise ConfigError("text_tower: this encoder has none, so it cannot embed texts")

    def config(self) -> dict[str, Any]:
        """See `Tower.config`."""
        return {"embedding_dim": self.embedding_dim}

    def layer_groups(self) -> list[list[str]]:
        """See `Tower.layer_groups`."""
        return []
