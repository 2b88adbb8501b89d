"""``POST /api/search``, ``/api/uploads`` and ``/api/labels``: queries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Request

from clipkit.search.row_filter import RowFilter
from clipkit.search.searcher import Hit
from clipkit.search.serving.failures import documented
from clipkit.search.serving.images.image_types import IMAGE_TYPES, SOUND_TYPES
from clipkit.search.serving.loading import CurrentService
from clipkit.search.serving.queries.embedder import Vector
from clipkit.search.serving.schemas import (
    Filter,
    LabelsAnswer,
    LabelsOfRow,
    LabelsRequest,
    Part,
    RowPart,
    SearchAnswer,
    SearchHit,
    SearchRequest,
    TextPart,
    UploadAnswer,
    UploadPart,
)
from clipkit.search.serving.service import Service

_FILE_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            each.media_type: {"schema": {"type": "string", "format": "binary"}}
            for each in (*IMAGE_TYPES, *SOUND_TYPES)
        },
    }
}

router = APIRouter(prefix="/api")


@router.post("/uploads", responses=documented(415, 422, 429), openapi_extra=_FILE_BODY)
async def upload_file(request: Request, service: CurrentService) -> UploadAnswer:
    """Embed an image or a sound file, the body of the request, for use as a part of queries."""
    kept = await service.uploads.add(await request.body())
    return UploadAnswer(
        upload=kept.name,
        width_pixels=kept.width_pixels,
        height_pixels=kept.height_pixels,
        seconds=kept.seconds,
    )


@router.post("/search", responses=documented(404, 415, 422))
async def search(wanted: SearchRequest, service: CurrentService) -> SearchAnswer:
    """Return the images or sounds that are most similar to a query."""
    started = time.perf_counter()
    service.check_modality(wanted.modality)
    found = await service.search(
        await _vectors(wanted.parts, service, wanted.modality),
        [part.weight for part in wanted.parts],
        tuple(_row_filter(each) for each in wanted.filters),
        frozenset(part.row for part in wanted.parts if isinstance(part, RowPart)),
        wanted.offset + wanted.num_results,
        wanted.modality,
    )
    least = -1.0 if wanted.min_score is None else wanted.min_score
    hits = [
        hit for hit in found.hits[wanted.offset :] if wanted.min_score is None or hit.score >= least
    ]
    records = await service.records([hit.row for hit in hits])
    return SearchAnswer(
        results=[_search_hit(*pair) for pair in zip(hits, records, strict=True)],
        num_candidates=found.num_candidates,
        seconds=time.perf_counter() - started,
    )


@router.post("/labels", responses=documented(404, 415, 422))
async def score_labels(
    wanted: Annotated[LabelsRequest, Body()], service: CurrentService
) -> LabelsAnswer:
    """Return the most probable classes of an image or a sound, without training for them."""
    if isinstance(wanted, LabelsOfRow):
        service.check_modality(wanted.modality)
        modality = wanted.modality or service.modality_of(wanted.row)
        vector = await service.row_vector(wanted.row, modality)
    else:
        upload = service.uploads.get(wanted.upload)
        modality, vector = upload.modality, upload.vector
    return LabelsAnswer(labels=await service.labels.scores(vector, wanted.labels, modality))


async def _vectors(parts: Sequence[Part], service: Service, modality: str | None) -> list[Vector]:
    """Return the embedding of each part of a query."""
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    of_text = iter(await service.texts(texts))
    vectors = []
    for part in parts:
        if isinstance(part, RowPart):
            vectors.append(await service.row_vector(part.row, modality))
        elif isinstance(part, UploadPart):
            vectors.append(service.uploads.get(part.upload).vector)
        else:
            vectors.append(next(of_text))
    return vectors


def _row_filter(given: Filter) -> RowFilter:
    return RowFilter(given.column, given.operator, str(given.value))


def _search_hit(hit: Hit, record: dict[str, Any]) -> SearchHit:
    captions = record.pop("captions") or [""]
    return SearchHit(score=hit.score, caption=captions[0], **record)
