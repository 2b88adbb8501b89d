"""Label-free measures of embeddings, which show a collapse early."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_MAX_ROWS: Final = 4096
"""Largest number of rows, evenly spaced, for pairwise measures, whose cost is quadratic."""


def effective_rank(embeddings: Float[Tensor, "N D"]) -> float:
    """Return RankMe: exp of the entropy of the normalised singular values.

    Garrido et al. 2023, eq. 1.
    """
    values = torch.linalg.svdvals(embeddings.double())
    shares = values / values.sum() + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def alignment(image: Float[Tensor, "N D"], text: Float[Tensor, "N D"]) -> float:
    """Return the mean squared distance of matching rows (Wang & Isola 2020, eq. 1, alpha = 2)."""
    return float((image - text).square().sum(1).mean())


def uniformity(embeddings: Float[Tensor, "N D"]) -> float:
    """Return the log of the mean of exp(-2 d²) over pairs of rows.

    Wang & Isola 2020, eq. 2, t = 2. It is 0 if all rows are equal, and decreases the more evenly
    they cover the sphere.
    """
    rows = spread(embeddings).double()
    return float(torch.pdist(rows).square().mul(-2).exp().mean().log())


def modality_gap(image: Float[Tensor, "N D"], text: Float[Tensor, "M D"]) -> float:
    """Return the distance between the means of both modalities (Liang et al. 2022, section 2)."""
    return float((image.mean(0) - text.mean(0)).norm())


def spread(rows: Float[Tensor, "N D"], limit: int = _MAX_ROWS) -> Float[Tensor, "n D"]:
    """Return at most ``limit`` rows, evenly spaced."""
    if len(rows) <= limit:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, limit).long()]
