"""Read the sidecar file next to a remote shard, so that the shard need not be transferred."""

from __future__ import annotations

import io
import logging
from typing import Final

from clipkit.data.shards.shard_table import ShardTable, name_as_text, split_name
from clipkit.data.shards.sidecars import keep_table, load_table
from clipkit.data.shards.tar_headers import BLOCK_BYTES, header_facts
from clipkit.data.storage.cache import SIDECAR_SUFFIX, RemoteFile, ShardCache
from clipkit.data.storage.remote import RangesIgnored
from clipkit.errors import ShardError

_LOG: Final = logging.getLogger(__name__)
_NAME_BYTES: Final = 100
"""Longer names are stored elsewhere in a tar."""


def read_remote_table(cache: ShardCache, remote: RemoteFile) -> ShardTable | None:
    """Read the table of a remote shard from the file next to it, and keep it in the cache.

    The file was written where the shard was packed, whose time of change says nothing about the
    copy. Instead, the length and the headers of three members are compared with the shard.

    Returns:
        The table; None if there is no such file, or it does not match the shard.

    Raises:
        ShardError: If the server does not answer.
    """
    address = remote.address
    folder = address.folder
    is_signed = "?" in address.text  # for one file only
    if folder is None or remote.size_bytes < 0 or is_signed:
        return None
    data = cache.read_small(folder.child(address.name + SIDECAR_SUFFIX))
    if data is None:
        return None
    table = load_table(io.BytesIO(data), remote.size_bytes, stamp=None)
    if table is None or not _describes(table, cache, remote):
        _LOG.warning(
            "%s%s: does not match the shard and is not used; index the shard and upload both again",
            address,
            SIDECAR_SUFFIX,
        )
        return None
    path = cache.sidecar(address)
    if (refusal := keep_table(table, path, remote.size_bytes, remote.stamp)) is not None:
        _LOG.warning("%s: index file not written: %s", path, refusal)
    return table


def _describes(table: ShardTable, cache: ShardCache, remote: RemoteFile) -> bool:
    """Compare the headers of the first, a middle and the last member."""
    samples = sorted({0, len(table) // 2, len(table) - 1})
    members = []
    for sample in samples:
        extension, span = max(table.members(sample).items(), key=lambda member: member[1])
        members.append((f"{table.key(sample)}.{extension}", *span))
    if any(not BLOCK_BYTES <= at <= at + size <= remote.size_bytes for _, at, size in members):
        return False
    try:
        headers = cache.read_parts(remote, [(at - BLOCK_BYTES, at) for _, at, _ in members])
        found = [header_facts(header, str(remote.address)) for header in headers]
    except (RangesIgnored, ShardError):
        return False  # the complete shard is transferred, and its headers are read
    return all(
        size == expected and _same_name(name, wanted)
        for (name, size), (wanted, _, expected) in zip(found, members, strict=True)
    )


def _same_name(stored: bytes, wanted: str) -> bool:
    if not wanted.isascii() or len(wanted) >= _NAME_BYTES:
        return True
    key = split_name(name_as_text(stored))
    return key is not None and ".".join(key) == wanted
