"""How embeddings are placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipkit.evaluation.report.content.images import Thumbnail
from clipkit.evaluation.report.content.run import Fact


@dataclass(frozen=True, slots=True)
class SimilarityHistogram:
    """Cosine similarities of matching and of all other pairs.

    Args:
        edges: K + 1 increasing borders of the K bins.
        matching: Share of the matching pairs in each bin; sums to 1.
        other: Share of the other pairs in each bin; sums to 1.
    """

    edges: Sequence[float]
    matching: Sequence[float]
    other: Sequence[float]


@dataclass(frozen=True, slots=True)
class Projection:
    """Positions of embeddings in the plane.

    Args:
        name: Name of the method, such as "PCA".
        positions: Position (x, y) of each point, on any scale.
        note: What the axes are, and how much of the variance they show.
    """

    name: str
    positions: Sequence[tuple[float, float]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class ThumbnailSheet:
    """Thumbnails of equal size in the rows of one image.

    Args:
        image: The sheet.
        num_columns: Number of thumbnails per row.
        num_rows: Number of rows.
    """

    image: Thumbnail
    num_columns: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class MapClass:
    """A class on the map.

    Args:
        name: Name of the class.
        count: Number of its images on the map.
        neighbours: Mean share of images of the same class among the nearest neighbours of an image
            of the class, from 0 to 1; None if it was not measured.
    """

    name: str
    count: int
    neighbours: float | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """Image embeddings as points of the plane, with a thumbnail each.

    Args:
        captions: Description of each of the N images.
        projections: Positions of the N images by one method or several.
        sheet: Thumbnails of the N images in their order.
        classes: Classes of the images; empty if they have none.
        class_of: Position of each image's class in ``classes``; None for an image without a class.
        note: How the images were selected, and which method is missing.
    """

    captions: Sequence[str]
    projections: Sequence[Projection]
    sheet: ThumbnailSheet
    classes: Sequence[MapClass] = ()
    class_of: Sequence[int | None] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Clouds:
    """Images and texts in one plane, which shows the gap between both modalities.

    Args:
        images: Positions (x, y) of images.
        texts: Positions (x, y) of texts.
        note: What the axes are, and how the points were selected.
    """

    images: Sequence[tuple[float, float]]
    texts: Sequence[tuple[float, float]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class EmbeddingHealth:
    """Measures of the embeddings that need no labels.

    Args:
        similarity: Similarities of matching and other pairs; None to omit the histogram.
        measures: Named measures such as the effective rank.
        clouds: Images and texts in one plane; None to omit them.
    """

    similarity: SimilarityHistogram | None = None
    measures: Sequence[Fact] = ()
    clouds: Clouds | None = None
