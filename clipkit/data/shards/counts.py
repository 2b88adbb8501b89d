"""Read numbers of samples that other tools have stored next to the shards."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Final

from clipkit.addresses import PIPE_PREFIX, has_scheme, is_local, without_scheme
from clipkit.data.shards.shard import MAX_SAMPLES
from clipkit.data.storage.cache import ShardCache, read_small_file
from clipkit.data.storage.urls import Address, base_name, file_address, parse_address
from clipkit.errors import DataError

_LOG = logging.getLogger(__name__)
COUNTS_FILES: Final = ("sizes.json", ".nv-meta/.info.json", ".info.json")


def read_counts(source: str | Path, cache: ShardCache | None = None) -> dict[str, int]:
    """Return ``base name of a shard -> number of samples``, from any of three formats."""
    address = file_address(source) if isinstance(source, Path) else parse_address(source)
    return parse_counts(read_json(address, cache), str(source))


def parse_counts(content: Any, name: str) -> dict[str, int]:
    """Do the same as ``read_counts`` for parsed JSON.

    Raises:
        DataError: If it is of another format, or a number of samples is none.
    """
    if isinstance(content, Mapping) and "shardlist" in content:
        pairs = _shardlist(content, name)
    elif isinstance(content, Mapping) and isinstance(content.get("shard_counts"), Mapping):
        pairs = list(content["shard_counts"].items())
    elif isinstance(content, Mapping) and content:
        pairs = list(content.items())
    else:
        pairs = []
    counts = checked_counts(pairs, name)
    if not counts:
        raise DataError(
            f"{name}: expected open_clip's sizes.json ({{shard: count}}), energon's .info.json "
            f"(shard_counts) or a wids index (shardlist), got another format"
        )
    return counts


def checked_counts(pairs: Iterable[tuple[Any, Any]], name: str) -> dict[str, int]:
    """Return numbers of samples by base name of the shard.

    An empty shard has the number 0, which some tools write; its use is an error that names it.

    Args:
        pairs: Name or URL of each shard, and its number of samples.
        name: Where they come from, for messages.

    Raises:
        DataError: If a number of samples is none, or two shards share a name.
    """
    counts: dict[str, int] = {}
    for shard, count in pairs:
        is_number = isinstance(count, Integral) and not isinstance(count, bool)
        if not is_number or not 0 <= count < MAX_SAMPLES:
            raise DataError(
                f"{name}: {shard}: expected a number of samples, got {count!r:.80}; correct it, or "
                f"remove the file to have the shards counted"
            )
        base = base_name(str(shard))
        if counts.setdefault(base, int(count)) != count:
            raise DataError(f"{name}: two shards are called {base} and their counts differ")
    return counts


def counts_beside(folder: Address, cache: ShardCache | None = None) -> dict[str, int]:
    """Return the counts in the folder of the shards; empty if there are none."""
    for name in COUNTS_FILES:
        data = read_beside(folder, name, cache)
        if data is not None:
            address = str(folder.child(name))
            return parse_counts(_parsed(data, address), address)
    return {}


def read_beside(folder: Address, name: str, cache: ShardCache | None = None) -> bytes | None:
    """Read a small file that may be in the folder of some shards."""
    address = folder.child(name)
    try:
        return read_small_file(address, cache)
    except DataError as error:
        # If the store cannot be read, the first shard raises the error.
        _LOG.warning("could not read %s: %s", address, error)
        return None


def counts_by_folder(
    shards: Sequence[Address], listed: Collection[str] = (), cache: ShardCache | None = None
) -> dict[Address, dict[str, int]]:
    """Read the counts next to the shards, for each folder of shards."""
    folders = dict.fromkeys(shard.folder for shard in shards if shard.name not in listed)
    return {folder: counts_beside(folder, cache) for folder in folders if folder is not None}


def known_counts(
    shards: Sequence[Address],
    given: Mapping[str, int],
    listed: Mapping[str, int],
    stored: Mapping[Address, Mapping[str, int]],
) -> dict[str, int]:
    """Return numbers of samples that need no scan, by base name of the shard.

    Args:
        shards: The shards.
        given: Numbers that the user gave, which have priority.
        listed: Numbers in wids indexes.
        stored: Numbers in files next to the shards, by folder.
    """
    known: dict[str, int] = {}
    for counts in stored.values():
        known |= counts
    known = {**known, **listed, **given}
    # Counts are by base name; if two shards share one, the counts are ambiguous.
    shared = Counter(shard.name for shard in shards)
    return {base: count for base, count in known.items() if shared.get(base) == 1}


def shards_of_wids(content: Any, source: Address) -> list[Address]:
    """Return the shards that a wids index names, relative to the index.

    A name is not expanded, and is never a command.
    """
    return [named_by_index(url, source) for url, _ in _shardlist(content, str(source))]


def named_by_index(url: str, source: Address) -> Address:
    """Return the address of an entry of an index.

    Raises:
        DataError: If the entry is a command, or a remote index names a file of this machine.
    """
    if url.startswith(PIPE_PREFIX):
        raise DataError(
            f"{source}: {url}: an index must not name a command, also with allow_pipe; name "
            f"the command itself as a shard, or the URL that it reads"
        )
    if has_scheme(url) and not is_local(url):
        return parse_address(url)
    if not (is_local(url) and (has_scheme(url) or url.startswith("/"))):
        folder = source.folder
        assert folder is not None, f"{source} is read from a file"
        return folder.child(url)
    if not source.is_local:
        raise DataError(
            f"{source}: {url}: a remote index must not name a file of this machine; expected names "
            f"relative to the index, or URLs"
        )
    return file_address(Path(without_scheme(url)))


def _shardlist(content: Any, name: str) -> list[tuple[str, Any]]:
    """Return URL and count of each entry of a wids index."""
    entries = content.get("shardlist") if isinstance(content, Mapping) else None
    if not isinstance(entries, list):
        raise DataError(f"{name}: expected a wids index with a shardlist")
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("url"), str):
            raise DataError(f"{name}: shardlist: expected entries with a url, got {entry!r:.80}")
    return [(entry["url"], entry.get("nsamples")) for entry in entries]


def read_json(source: Address, cache: ShardCache | None) -> Any:
    """Read a small JSON file."""
    data = read_small_file(source, cache)
    if data is None:
        raise DataError(f"{source}: no such file")
    return _parsed(data, str(source))


def _parsed(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON: {error}") from error
