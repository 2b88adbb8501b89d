"""Tell paths of this machine from URLs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

PIPE_PREFIX: Final = "pipe:"
"""What the address of a command begins with, whose output is read."""
_LOCAL_SCHEMES: Final = ("file://", "local://")
_SCHEME: Final = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def has_scheme(url: str) -> bool:
    """Return whether ``url`` begins like ``https://``."""
    return _SCHEME.match(url) is not None


def is_local(url: str) -> bool:
    """Whether ``url`` is a path of this machine."""
    return url.startswith(_LOCAL_SCHEMES) or not (url.startswith(PIPE_PREFIX) or has_scheme(url))


def local_path(url: str) -> Path:
    """Return the path of a local URL."""
    path = Path(without_scheme(url) if url.startswith(_LOCAL_SCHEMES) else url)
    try:
        return path.expanduser()
    except (RuntimeError, ValueError):  # no such user: then the name begins with a tilde
        return path


def without_scheme(url: str) -> str:
    """Return what follows ``https://``, or the like, in ``url``."""
    return _SCHEME.sub("", url)
