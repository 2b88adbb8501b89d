"""A process that may open few more files than it has open."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def few_open_files(num_more: int) -> Iterator[None]:
    """Let this process open some more files only; the limit is that before after the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = [int(path.name) for path in Path("/dev/fd").iterdir()]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(len(opened) + num_more, max(opened) + 1), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
