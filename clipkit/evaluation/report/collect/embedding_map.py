"""Collect a map of image embeddings, with a thumbnail of each point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.class_names import shown_names
from clipkit.evaluation.embedding import EmbeddedPairs
from clipkit.evaluation.report.collect.planes import fit_plane, has_umap, umap_positions
from clipkit.evaluation.report.collect.thumbnails import Thumbnails
from clipkit.evaluation.report.content import EmbeddingMap, MapClass, Projection

_MAX_POINTS: Final = 400
"""Largest number of images on the map: each has a thumbnail in the page."""
_MAX_ROWS: Final = 5000
"""Largest number of images that axes and neighbours are computed from."""
_NUM_NEIGHBOURS: Final = 10
_PIXELS: Final = 64
_MIN_UMAP: Final = 10  # its layout is computed from more neighbours than fewer images have


def embedding_map(
    pairs: EmbeddedPairs, class_names: Sequence[str], thumbnails: Thumbnails, seed: int
) -> EmbeddingMap | None:
    """Place at most 400 images on the plane of their principal components, and by UMAP.

    Args:
        pairs: Embeddings and classes of the images.
        class_names: Names of the classes; missing ones are replaced by their numbers.
        thumbnails: Thumbnails of the images.
        seed: Seed of the selection of images, and of UMAP.

    Returns:
        The map; None if there are fewer than three images.
    """
    if len(pairs.images) < 3:
        return None
    order = torch.randperm(len(pairs.images), generator=torch.Generator().manual_seed(seed))
    few, more = order[:_MAX_POINTS].sort().values, order[:_MAX_ROWS].sort().values
    plane = fit_plane(pairs.images[more])
    note = f"{100 * plane.explained:.0f} % of the variance"
    projections = [Projection("PCA", plane.place(pairs.images[few]), note)]
    if has_umap() and len(more) >= _MIN_UMAP:
        place = dict(zip(more.tolist(), umap_positions(pairs.images[more], seed), strict=True))
        umap_note = f"fitted to {len(more):,} images; only near neighbours are meaningful"
        projections.append(Projection("UMAP", [place[row] for row in few.tolist()], umap_note))
    sheet, captions = thumbnails.sheet(few.tolist(), _PIXELS)
    classes, class_of = _classes(pairs, few, more, class_names)
    return EmbeddingMap(
        captions, projections, sheet, classes, class_of, _note(len(few), len(pairs.images), seed)
    )


def _classes(
    pairs: EmbeddedPairs,
    few: Int64[Tensor, " few"],
    more: Int64[Tensor, " more"],
    names: Sequence[str],
) -> tuple[list[MapClass], list[int | None]]:
    labels = pairs.labels[few]
    numbers = sorted(set(labels[labels >= 0].tolist()))
    if not numbers:
        return [], []
    shown = shown_names(names, max(numbers) + 1)
    same = _same_class_share(pairs, few, more)
    classes = [
        MapClass(shown[n], int((labels == n).sum()), float(same[labels == n].mean()))
        for n in numbers
    ]
    place = {number: position for position, number in enumerate(numbers)}
    return classes, [place.get(label) for label in labels.tolist()]


def _same_class_share(
    pairs: EmbeddedPairs, few: Int64[Tensor, " few"], more: Int64[Tensor, " more"]
) -> Float[Tensor, " few"]:
    """Return the share of each image's nearest neighbours that are of its class."""
    scores = pairs.images[few] @ pairs.images[more].T
    scores[few[:, None] == more[None, :]] = -torch.inf
    nearest = scores.topk(min(_NUM_NEIGHBOURS, len(more) - 1)).indices
    return (pairs.labels[more][nearest] == pairs.labels[few][:, None]).float().mean(1)


def _note(shown: int, total: int, seed: int) -> str:
    parts = [
        f"{shown:,} of {total:,} images, selected at random (seed {seed})."
        if shown < total
        else f"All {total:,} images."
    ]
    if has_umap() and total < _MIN_UMAP:
        parts.append(f"UMAP is left out: it needs at least {_MIN_UMAP} images.")
    if not has_umap():
        parts.append("UMAP is left out: umap-learn is not installed (pip install umap-learn).")
    return " ".join(parts)
