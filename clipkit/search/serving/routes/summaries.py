"""``GET /api/columns/NAME`` and ``GET /api/map``: what the collection holds."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from clipkit.search.collection_map import MAX_POINTS
from clipkit.search.serving.failures import documented
from clipkit.search.serving.loading import CurrentService
from clipkit.search.serving.schemas import ColumnAnswer, MapAnswer

router = APIRouter(prefix="/api")


@router.get("/columns/{name:path}", responses=documented(404, 422))
async def get_column(
    name: Annotated[str, Path(min_length=1, max_length=200)], service: CurrentService
) -> ColumnAnswer:
    """Return the values of a column with their counts, and the range of numbers."""
    return await service.column(name)


@router.get("/map", responses=documented(422))
async def get_map(
    service: CurrentService,
    num_points: Annotated[
        int, Query(ge=1, le=MAX_POINTS, description="Largest number of images.")
    ] = 5000,
) -> MapAnswer:
    """Return positions of a sample of images, where similar images are next to each other."""
    found = await service.map_points(num_points)
    points = zip(found.positions.tolist(), found.rows.tolist(), found.labels.tolist(), strict=True)
    return MapAnswer(
        points=[[x, y, row, None if label < 0 else label] for (x, y), row, label in points]
    )
