"""Projections of embeddings onto a plane."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor

Positions = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Plane:
    """The plane of the first two principal components."""

    mean: Float[Tensor, " D"]
    axes: Float[Tensor, "D 2"]
    explained: float  # share of the variance in the plane, 0 to 1

    def place(self, rows: Float[Tensor, "N D"]) -> Positions:
        """Return the positions of embeddings."""
        places = (rows.double() - self.mean) @ self.axes
        return [(x, y) for x, y in places.tolist()]


def fit_plane(rows: Float[Tensor, "N D"]) -> Plane:
    """Fit the plane of the largest variance; the result does not depend on the sign of the axes.

    Examples:
        >>> plane = fit_plane(torch.tensor([[0.0, 0, 0], [3, 0, 0], [3, 1, 0], [0, 1, 0]]))
        >>> plane.explained, plane.place(torch.tensor([[3.0, 1.0, 9.0]]))
        (1.0, [(1.5, 0.5)])
    """
    mean = rows.double().mean(0)
    centred = rows.double() - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred)
    axes = vectors[:, -2:].flip(1)
    if axes.shape[1] < 2:
        axes = torch.cat([axes, torch.zeros_like(axes)], 1)
    largest = axes.abs().argmax(0)
    axes = axes * torch.where(axes[largest, torch.arange(2)] < 0, -1.0, 1.0)
    total = float(variances.clamp(min=0).sum())
    return Plane(mean, axes, float(variances[-2:].clamp(min=0).sum()) / total if total else 1.0)


def has_umap() -> bool:
    """Return whether umap-learn is installed."""
    return find_spec("umap") is not None


def umap_positions(rows: Float[Tensor, "N D"], seed: int) -> Positions:
    """Place embeddings by UMAP (McInnes et al. 2018) with cosine distances."""
    import umap

    neighbours = min(15, len(rows) - 1)
    reducer = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1)
    return [(float(x), float(y)) for x, y in reducer.fit_transform(rows.numpy())]
