"""Heads that score classes from image embeddings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from clipkit.errors import ConfigError, check_at_least


class LabelHead(nn.Module, ABC):
    """Head that computes one logit per class from image embeddings.

    Attributes:
        embedding_dim: Components of an embedding.
        num_classes: Number of classes.
        class_names: Name per class, empty for a class without a name; an empty tuple until data
            specify the names. They are stored in checkpoints; evaluation matches classes by them.
    """

    embedding_dim: int
    num_classes: int
    class_names: Sequence[str] = ()

    @property
    def teaches_text_tower(self) -> bool:
        """Whether the text tower is trained by the logits, too."""
        return False

    @abstractmethod
    def forward(self, image: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Score the classes.

        Args:
            image: Output of the image tower, not of unit norm.

        Returns:
            Logits of the classes.
        """

    def score(
        self,
        image: Float[Tensor, "B D"],
        text_tower: Callable[[Int64[Tensor, "prompts S"]], Float[Tensor, "prompts D"]],  # noqa: ARG002
    ) -> Float[Tensor, "B C"]:
        """Score the classes once per step; heads with texts call the text tower.

        Args:
            image: Output of the image tower, not of unit norm.
            text_tower: Function from token ids to embeddings.
        """
        logits: Tensor = self(image)
        return logits

    def read_texts(self, tokenize: Callable[[Sequence[str]], Int64[Tensor, "prompts S"]]) -> None:
        """Tokenize the texts of the head for the text tower; most heads have none."""

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this head again."""
        return {"embedding_dim": self.embedding_dim, "num_classes": self.num_classes}


def check_sizes(embedding_dim: int, num_classes: int) -> None:
    """Refuse sizes below 1."""
    check_at_least("label_head.embedding_dim", embedding_dim, 1)
    check_at_least("label_head.num_classes", num_classes, 1)


def check_scale(scale: float) -> None:
    """Refuse a scale that is not positive and finite."""
    if scale <= 0:
        raise ConfigError(f"label_head.scale: expected more than 0, got {scale}")


@final
class LinearLabelHead(LabelHead):
    """A linear layer that starts at zero, so that the label loss starts at log(num_classes).

    Args:
        embedding_dim: Components of an embedding.
        num_classes: Number of classes.

    Examples:
        >>> LinearLabelHead(8, 3)(torch.ones(2, 8))
        tensor([[0., 0., 0.],
                [0., 0., 0.]], grad_fn=<AddmmBackward0>)
    """

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        check_sizes(embedding_dim, num_classes)
        super().__init__()
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.linear = nn.Linear(embedding_dim, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, image: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Score the classes; see ``LabelHead.forward``."""
        logits: Tensor = self.linear(image)
        return logits


@final
class CosineLabelHead(LabelHead):
    """Cosine similarity with one trainable prototype per class, times a trainable scale.

    The scale is separate: if it were shared, the label loss would change the temperature of
    the contrastive loss.

    Args:
        embedding_dim: Components of an embedding.
        num_classes: Number of classes.
        scale: Initial scale, linear.
    """

    def __init__(self, embedding_dim: int, num_classes: int, scale: float = 16.0) -> None:
        check_sizes(embedding_dim, num_classes)
        check_scale(scale)
        super().__init__()
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self._start_scale = scale
        self.prototypes = nn.Parameter(torch.empty(num_classes, embedding_dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        nn.init.normal_(self.prototypes, std=embedding_dim**-0.5)

    def forward(self, image: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Score the classes; see ``LabelHead.forward``."""
        cosine = F.normalize(image, dim=-1) @ F.normalize(self.prototypes, dim=-1).T
        return self.log_scale.exp() * cosine

    def config(self) -> dict[str, Any]:
        """Plain arguments that build this head again."""
        return {**super().config(), "scale": self._start_scale}
