"""Label-free measures of embeddings, which show a collapse early."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_MAX_ROWS: Final = 2048
"""Largest number of rows, evenly spaced, for pairwise measures, whose cost is quadratic."""


def health_metrics(
    image: Float[Tensor, "N D"],
    text: Float[Tensor, "texts D"],
    text_to_image: Int64[Tensor, " texts"],
) -> dict[str, float]:
    """Compute all measures of the embeddings of images and of their texts.

    Args:
        image: Unit-norm embeddings of the images.
        text: Unit-norm embeddings of the texts; none for measures of the images alone.
        text_to_image: Row of the image of each text.

    Returns:
        ``effective_rank_image`` and ``uniformity_image``, and with texts also
        ``effective_rank_text``, ``uniformity_text``, ``alignment`` and ``modality_gap``. A measure
        that needs more rows is left out.

    Examples:
        >>> same = torch.eye(3)
        >>> health_metrics(same, same, torch.arange(3))["modality_gap"]
        0.0
    """
    measures: dict[str, float] = {}
    for name, rows in (("image", image), ("text", text)):
        if len(rows) > 1:
            measures[f"effective_rank_{name}"] = effective_rank(spread(rows))
            measures[f"uniformity_{name}"] = uniformity(rows)
    if len(text):
        measures["alignment"] = alignment(image[text_to_image], text)
        measures["modality_gap"] = modality_gap(image, text)
    return measures


def effective_rank(embeddings: Float[Tensor, "N D"]) -> float:
    """Return RankMe: exp of the entropy of the normalised singular values.

    Garrido et al. 2023, eq. 1.
    """
    rows = embeddings.double()
    # eigenvalues of the smaller product are the squares, at a fraction of the time
    product = rows.T @ rows if len(rows) > rows.shape[1] else rows @ rows.T
    values = torch.linalg.eigvalsh(product).clamp(min=0).sqrt()
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
    products = rows @ rows.T
    squares = products.diagonal()
    distances = (squares[:, None] + squares - 2 * products).clamp(min=0)
    close = distances.mul(-2).exp().fill_diagonal_(0)
    return float((close.sum() / (len(rows) * (len(rows) - 1))).log())


def modality_gap(image: Float[Tensor, "N D"], text: Float[Tensor, "texts D"]) -> float:
    """Return the distance between the means of both modalities (Liang et al. 2022, section 2)."""
    return float((image.mean(0) - text.mean(0)).norm())


def spread(rows: Float[Tensor, "N D"], limit: int = _MAX_ROWS) -> Float[Tensor, "rows D"]:
    """Return at most ``limit`` rows, evenly spaced."""
    if len(rows) <= limit:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, limit, device=rows.device).long()]
