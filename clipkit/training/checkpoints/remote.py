"""Bring a checkpoint from a URL to this machine, once per version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from clipkit.data.storage.cache import default_cache
from clipkit.data.storage.remote import Retries, transfer
from clipkit.data.storage.urls import parse_address
from clipkit.errors import CheckpointError, DataError

_RETRIES: Final = Retries(count=6, backoff_seconds=0.5)


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Provide a file of this machine with the bytes of a checkpoint.

    A file from a URL is kept in the cache of remote shards, by URL, size and version (entity tag or
    time of change). If the server reports no version, the file is transferred each time.
    """
    address = parse_address(path)
    if address.is_local:
        yield address.path
        return
    with TemporaryDirectory(prefix="clipkit-") as folder:
        try:
            remote = default_cache().stat(address)
            if remote.stamp:
                copy = default_cache().fetch(remote)
            else:
                copy = Path(folder) / "checkpoint"
                transfer(address, remote.size_bytes, copy, _RETRIES)
        except DataError as error:
            raise CheckpointError(f"ckpt_path: {error}") from error
        yield copy
