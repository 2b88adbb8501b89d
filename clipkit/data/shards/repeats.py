"""Refuse shards that are named twice, also with different spellings."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from clipkit.data.storage.urls import Address
from clipkit.errors import ShardError

_THREADS: Final = 16
_FEW: Final = 64


def refuse_repeats(addresses: Sequence[Address]) -> None:
    """Refuse a shard that is named twice: its samples would come twice in an epoch.

    Relative and absolute paths, ``./``, symbolic and hard links, ``file://``, and the case of a
    host's name make no difference.
    """
    seen: dict[Hashable, Address] = {}
    for address, identity in zip(addresses, _identities(addresses), strict=True):
        first = seen.setdefault(identity, address)
        if first is not address:
            spelt = f", first as {first}" if first != address else ""
            raise ShardError(
                f"{address}: named twice{spelt}; name each shard once. To repeat a source, set "
                f"its epochs or weight in a mixture"
            )


def identity_of(address: Address) -> Hashable:
    """Return a value that is the same for every spelling of one file."""
    if address.kind == "pipe":
        return address.text
    if not address.is_local:
        return _normal_url(address.text)
    try:
        status = address.path.stat()
    except (OSError, ValueError):  # named later, where the shard is opened
        return os.path.normpath(address.path.absolute())
    # Some network file systems number no files.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(address.text)


def _identities(addresses: Sequence[Address]) -> list[Hashable]:
    if len(addresses) <= _FEW:
        return [identity_of(address) for address in addresses]
    with ThreadPoolExecutor(_THREADS) as pool:  # a network file system answers slowly
        return list(pool.map(identity_of, addresses))


def _normal_url(url: str) -> str:
    """Convert scheme and host to lower case; for HTTP, also resolve ``.`` and ``..``."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    path = parts.path
    if parts.scheme.lower() in {"http", "https"} and path:
        path = posixpath.normpath(path)
    # Names of buckets are case-sensitive in some stores.
    host = parts.netloc.lower() if parts.scheme.lower() in {"http", "https"} else parts.netloc
    return urlunsplit(parts._replace(scheme=parts.scheme.lower(), netloc=host, path=path))
