"""``GET /`` and ``GET /static/NAME``: the page and its files."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from clipkit.search.serving.failures import HttpError
from clipkit.search.serving.page import page_files

ROOT_FILES = ("index.html", "token.html")
"""Files that are answers to ``/``, not served under their names."""

router = APIRouter(include_in_schema=False)


@router.get("/")
async def get_page(request: Request) -> Response:
    """Return the page."""
    return page_file("index.html", request)


@router.get("/static/{name}")
async def get_static_file(name: str, request: Request) -> Response:
    """Return a style sheet, a script or the icon of the page."""
    if name in ROOT_FILES or name not in page_files():
        raise HttpError(404, "no such file of the page")
    return page_file(name, request)


def page_file(name: str, request: Request) -> Response:
    """Return a file of the page, or 304 if the browser has it."""
    file = page_files()[name]
    headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
