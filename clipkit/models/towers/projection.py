"""Project a trunk's features to the common embedding space."""

from __future__ import annotations

from typing import Literal

from torch import nn

from clipkit.errors import ConfigError, check_at_least

Projection = Literal["linear", "mlp", "none"]


def make_projection(kind: Projection, num_features: int, embedding_dim: int) -> nn.Module:
    """Build a linear map without bias, a two-layer perceptron, or the identity."""
    check_at_least("embedding_dim", embedding_dim, 1)
    if kind == "linear":
        return nn.Linear(num_features, embedding_dim, bias=False)
    if kind == "mlp":
        hidden = 2 * embedding_dim
        return nn.Sequential(
            nn.Linear(num_features, hidden), nn.GELU(), nn.Linear(hidden, embedding_dim, bias=False)
        )
    if kind != "none":
        raise ConfigError(f"projection: expected 'linear', 'mlp' or 'none', got {kind!r}")
    if num_features != embedding_dim:
        raise ConfigError(
            f"projection: 'none' needs embedding_dim = {num_features}, the trunk's features, "
            f"got {embedding_dim}; set it, or use projection: linear"
        )
    return nn.Identity()
