"""``GET /api/images/...``: what is known of a sample, its thumbnail, its image and its sound."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response

from clipkit.data.audio.formats import LEAST_HEADER_BYTES
from clipkit.search.serving.byte_ranges import byte_range
from clipkit.search.serving.failures import HttpError, documented, error_response
from clipkit.search.serving.images.decoding import THUMBNAIL_SIZES, thumbnail_size
from clipkit.search.serving.images.image_types import (
    IMAGE_TYPES,
    SOUND_TYPES,
    ImageType,
    image_type,
    sound_type,
)
from clipkit.search.serving.loading import CurrentService
from clipkit.search.serving.schemas import MAX_ROW, ImageAnswer
from clipkit.search.serving.service import Service

RowNumber = Annotated[int, Path(ge=0, le=MAX_ROW, description="Number of the image.")]
_CACHED: Final = "private, no-cache"  # browsers keep it, and ask whether it has changed
_NO_SCRIPTS: Final = "default-src 'none'; sandbox"
_FACTS: Final = frozenset(
    {"row", "key", "captions", "label", "class_name", "width_pixels", "height_pixels", "error"}
)


def _binary(*media_types: str) -> dict[int | str, dict[str, Any]]:
    content = {name: {"schema": {"type": "string", "format": "binary"}} for name in media_types}
    return {
        200: {"content": content, "description": "The image."},
        304: {"description": "The browser has the image: If-None-Match names its ETag."},
    }


router = APIRouter(prefix="/api/images")


@router.get("/{row}", responses=documented(404, 422))
async def get_image(row: RowNumber, service: CurrentService) -> ImageAnswer:
    """Return all that is known of an image."""
    record = await service.record(row)
    shard, _ = service.collection.locate(row)
    sounds = [f"{name}_type" for name in service.info.modalities]
    return ImageAnswer(
        **{name: record[name] for name in _FACTS - {"captions"}},
        captions=record["captions"] or [],
        columns={name: record[name] for name in service.info.columns},
        shard=service.info.shards[shard].name,
        has_image=record["image_type"] is not None,
        has_sound=any(record[name] is not None for name in sounds),
    )


@router.get(
    "/{row}/thumbnail",
    response_class=Response,
    responses={**documented(404, 415, 422), **_binary("image/jpeg")},
)
async def get_thumbnail(
    row: RowNumber,
    service: CurrentService,
    request: Request,
    size_pixels: Annotated[
        int,
        Query(ge=1, le=THUMBNAIL_SIZES[-1], description="Longer side; rounded up to a few sizes."),
    ] = 256,
) -> Response:
    """Return a small JPEG of an image."""
    size = thumbnail_size(size_pixels)
    headers = {"ETag": f'"{service.tag}-{row}-{size}"', "Cache-Control": _CACHED}
    service.check_row(row)
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(await service.thumbnail(row, size), media_type="image/jpeg", headers=headers)


@router.get(
    "/{row}/file",
    response_class=Response,
    responses={
        **documented(404, 415, 422),
        **_binary(*(each.media_type for each in IMAGE_TYPES)),
    },
)
async def get_file(row: RowNumber, service: CurrentService, request: Request) -> Response:
    """Return the original file of an image, if it is of a type that can hold no script."""
    headers = {"ETag": f'"{service.tag}-{row}"', "Cache-Control": _CACHED}
    service.check_row(row)
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    content = await service.image(row)
    kind = image_type(content)
    if kind is None:
        names = ", ".join(each.name for each in IMAGE_TYPES)
        raise HttpError(415, f"image of row {row}: expected {names}, got a file of no such type")
    headers["Content-Disposition"] = f'inline; filename="{row}{kind.suffix}"'
    headers["Content-Security-Policy"] = _NO_SCRIPTS
    return Response(content, media_type=kind.media_type, headers=headers)


@router.get(
    "/{row}/sound",
    response_class=Response,
    responses={
        **documented(404, 415, 416, 422),
        **_binary(*(each.media_type for each in SOUND_TYPES)),
        206: _binary(*(each.media_type for each in SOUND_TYPES))[200]
        | {"description": "The part of the sound that Range asks for."},
    },
)
async def get_sound(
    row: RowNumber,
    service: CurrentService,
    request: Request,
    wanted: Annotated[
        str | None, Header(alias="Range", description="Part of the file, as bytes=FIRST-LAST.")
    ] = None,
    if_range: Annotated[
        str | None, Header(alias="If-Range", description="ETag of the file that has this part.")
    ] = None,
) -> Response:
    """Return the original sound file of a sample, or a part of it."""
    tag = f'"{service.tag}-{row}-sound"'
    headers = {"ETag": tag, "Cache-Control": _CACHED, "Accept-Ranges": "bytes"}
    service.check_row(row)
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    part = None
    if wanted is not None and if_range in (None, tag):
        size = await service.sound_bytes(row)
        part = byte_range(wanted, size)
        if part is not None:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
            if not part:
                message = f"Range: expected bytes from 0 to {size - 1}, got {wanted!r}"
                return error_response(416, message, {"Content-Range": f"bytes */{size}"})
    content, kind = await _sound(service, row, part)
    headers["Content-Disposition"] = f'inline; filename="{row}{kind.suffix}"'
    headers["Content-Security-Policy"] = _NO_SCRIPTS
    status = 200 if part is None else 206
    return Response(content, status, headers=headers, media_type=kind.media_type)


async def _sound(service: Service, row: int, part: range | None) -> tuple[bytes, ImageType]:
    """Read a sound or a part of it; its first bytes tell its type."""
    content = await service.sound(row, *((part.start, part.stop) if part is not None else ()))
    is_start = part is None or (part.start == 0 and len(part) >= LEAST_HEADER_BYTES)
    kind = sound_type(content if is_start else await service.sound(row, 0, LEAST_HEADER_BYTES))
    if kind is None:
        names = ", ".join(each.name for each in SOUND_TYPES)
        raise HttpError(415, f"sound of row {row}: expected {names}, got a file of no such type")
    return content, kind
