"""The files of the page, by a fixed list of names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

CONTENT_SECURITY_POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",  # blob: is the preview of an image before it is uploaded
        "media-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Value of the header ``Content-Security-Policy`` of every answer.

The browser refuses scripts and styles inside the markup, and every request to another host.
"""

_PAGES: Final = ("index.html", "token.html", "icon.svg")
_STYLES: Final = ("app.css", "query.css", "results.css", "detail.css", "map.css")
_SCRIPTS: Final = (
    "api.js", "app.js", "camera.js", "detail.js", "dom.js", "drawing.js", "filters.js", "find.js",
    "gestures.js", "keyboard.js", "labels.js", "legend.js", "map.js", "near.js", "notice.js",
    "parts.js", "query.js", "results.js", "sound.js", "start.js", "state.js", "status.js",
    "theme.js", "upload.js", "views.js",
)  # fmt: skip
_MEDIA_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page.

    Args:
        content: The bytes.
        media_type: Value of the header ``Content-Type``.
        etag: Value of the header ``ETag``: a hash of the content, in quotation marks.
    """

    content: bytes
    media_type: str
    etag: str


@cache
def page_files() -> dict[str, PageFile]:
    """Read the files of the page, by name.

    ``index.html`` is the answer to ``/``, ``token.html`` the one where the token is missing or
    wrong; the others are served as ``/static/NAME``. No other name is served.

    Examples:
        >>> page_files()["app.js"].media_type
        'text/javascript; charset=utf-8'
    """
    folder = files("clipkit.search.serving.page")
    # The style of all pages of clipkit: colours, fonts, focus.
    base = files("clipkit.evaluation.report") / "templates" / "styles" / "base.css"
    contents = {name: (folder / name).read_bytes() for name in _PAGES}
    contents |= {"base.css": base.read_bytes()}
    contents |= {name: (folder / "styles" / name).read_bytes() for name in _STYLES}
    contents |= {name: (folder / "scripts" / name).read_bytes() for name in _SCRIPTS}
    return {name: _page_file(name, content) for name, content in contents.items()}


def _page_file(name: str, content: bytes) -> PageFile:
    media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
    return PageFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
