"""``GET /`` and ``GET /static/...``: the page and its files."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from clipkit.search.serving import page

_FOLDER: Final = Path(page.__file__).parent
_TYPES: Final = {
    "index.html": "text/html; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
def get_page(request: Request) -> Response:
    """Return the page."""
    return _file("index.html", request)


@router.get("/static/app.css")
def get_styles(request: Request) -> Response:
    """Return the page's styles."""
    return _file("app.css", request)


@router.get("/static/app.js")
def get_script(request: Request) -> Response:
    """Return the page's script."""
    return _file("app.js", request)


def _file(name: str, request: Request) -> Response:
    content, tag = _content(name)
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_TYPES[name], headers=headers)


@cache
def _content(name: str) -> tuple[bytes, str]:
    content = (_FOLDER / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
