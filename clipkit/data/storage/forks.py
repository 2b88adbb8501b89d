"""Connections of a process survive the workers that it forks."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

_KEPT: Final[dict[int, Any]] = {}
"""File systems of this process, and of those from which it was forked, by their identity."""


def _keep_connections() -> None:
    """Keep a reference to every open file system, which a forked process inherits.

    fsspec drops its own references there, which closes their sessions. As both processes share one
    epoll object, this would remove the parent's connections from it: the parent's next request on
    one would only end with the time limit, after a minute.
    """
    if (spec := sys.modules.get("fsspec.spec")) is None:
        return
    kinds = [spec.AbstractFileSystem]
    while kinds:
        kind = kinds.pop()
        _KEPT.update((id(system), system) for system in list(kind._cache.values()))
        kinds += kind.__subclasses__()


os.register_at_fork(before=_keep_connections)
