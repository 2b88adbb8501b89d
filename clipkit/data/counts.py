"""Numbers of samples that other tools have written down beside the shards."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from clipkit.data.cache import ShardCache, default_cache
from clipkit.data.urls import PIPE_PREFIX, base_name, is_local, local_path
from clipkit.errors import DataError

_LOG = logging.getLogger(__name__)
COUNTS_FILES: Final = ("sizes.json", ".nv-meta/.info.json", ".info.json")


def read_counts(source: str | Path, cache: ShardCache | None = None) -> dict[str, int]:
    """``base name of a shard -> number of samples``, from any of three formats.

    Args:
        source: Path or URL of open_clip's ``sizes.json``, energon's ``.info.json`` or a wids index.
        cache: How patient to be with a remote one; None for the default cache.

    Raises:
        DataError: If the file is absent or has none of these formats.
    """
    return parse_counts(_read_json(source, cache), str(source))


def parse_counts(content: Any, name: str) -> dict[str, int]:
    """What ``read_counts`` does, on parsed JSON.

    Args:
        content: The parsed file.
        name: What errors call it.
    """
    if isinstance(content, Mapping) and isinstance(content.get("shardlist"), list):
        pairs = [(entry["url"], entry["nsamples"]) for entry in content["shardlist"]]
    elif isinstance(content, Mapping) and isinstance(content.get("shard_counts"), Mapping):
        pairs = list(content["shard_counts"].items())
    elif isinstance(content, Mapping) and content:
        pairs = list(content.items())
    else:
        pairs = []
    counts: dict[str, int] = {}
    for shard, count in pairs:
        if not isinstance(count, int) or isinstance(count, bool):
            raise DataError(f"{name}: {shard}: expected a number of samples, got {count!r}")
        base = base_name(str(shard))
        if counts.setdefault(base, count) != count:
            raise DataError(f"{name}: two shards are called {base} and their counts differ")
    if not counts:
        raise DataError(
            f"{name}: expected open_clip's sizes.json ({{shard: count}}), energon's .info.json "
            f"(shard_counts) or a wids index (shardlist), got another format"
        )
    return counts


def counts_beside(folder: str, cache: ShardCache | None = None) -> dict[str, int]:
    """The counts that lie in the folder of the shards; empty where there are none.

    Args:
        folder: Path or URL, without a slash at its end.
        cache: How patient to be with a remote one; None for the default cache.
    """
    for name in COUNTS_FILES:
        address = f"{folder}/{name}"
        try:
            data = _read(address, cache)
        except DataError as error:
            # A store that cannot be read is told by the name of a shard, which comes next.
            _LOG.warning("%s: not looked at: %s", address, error)
            return {}
        if data is not None:
            return parse_counts(_parsed(data, address), address)
    return {}


def named_shards(
    urls: Sequence[str | Path], cache: ShardCache | None = None
) -> tuple[list[str], dict[str, int]]:
    """Patterns with the shards of wids indexes in their place, and the counts that these tell.

    Args:
        urls: Patterns of shards, and wids indexes (``.json``).
        cache: How patient to be with a remote index; None for the default cache.
    """
    names: list[str] = []
    counts: dict[str, int] = {}
    for url in map(str, urls):
        if base_name(url).endswith(".json"):
            names += shards_of_wids(url, cache)
            counts |= read_counts(url, cache)
        else:
            names.append(url)
    return names, counts


def counts_by_folder(
    names: Sequence[str], listed: Collection[str] = (), cache: ShardCache | None = None
) -> dict[str, dict[str, int]]:
    """Read the counts stored beside the shards, for each of their folders.

    Args:
        names: The shards.
        listed: Base names of shards whose counts a wids index gives; they are not looked for.
        cache: How patient to be with remote files; None for the default cache.

    Returns:
        Path or URL of a folder -> base name -> number of samples; no counts where none are stored.
    """
    unlisted = (name for name in names if base_name(name) not in listed)
    folders = filter(None, dict.fromkeys(map(folder_of, unlisted)))
    return {folder: counts_beside(folder, cache) for folder in folders}


def known_counts(
    names: Sequence[str],
    counts: str | Path | Mapping[str, int] | None,
    listed: Mapping[str, int],
    beside: Mapping[str, Mapping[str, int]],
    cache: ShardCache | None = None,
) -> dict[str, int]:
    """Numbers of samples that are known without a scan, by base name of the shard.

    Args:
        names: The shards.
        counts: The counts, or their file; None takes those beside the shards.
        listed: Counts of a wids index.
        beside: What ``counts_by_folder`` found.
        cache: How patient to be with remote files; None for the default cache.
    """
    if counts is None:
        known: dict[str, int] = {}
        for found in beside.values():
            known |= found
        known |= listed
    elif isinstance(counts, Mapping):
        known = dict(counts)
    else:
        known = read_counts(counts, cache)
    # Counts are by base name; where two shards share one, the counts cannot be told apart.
    shared = Counter(map(base_name, names))
    return {base: count for base, count in known.items() if shared.get(base) == 1}


def shards_of_wids(source: str, cache: ShardCache | None = None) -> list[str]:
    """The shards that a wids index names, relative to the index itself.

    Args:
        source: Path or URL of the index.
        cache: How patient to be with a remote one; None for the default cache.
    """
    content = _read_json(source, cache)
    if not isinstance(content, Mapping) or not isinstance(content.get("shardlist"), list):
        raise DataError(f"{source}: expected a wids index with a shardlist")
    urls = [str(entry["url"]) for entry in content["shardlist"]]
    folder = source.rpartition("/")[0] if not is_local(source) else str(local_path(source).parent)
    return [url if "://" in url or url.startswith("/") else f"{folder}/{url}" for url in urls]


def folder_of(url: str) -> str:
    """The folder of a shard; "" for a command's output."""
    if is_local(url):
        return str(local_path(url).parent)
    return "" if url.startswith(PIPE_PREFIX) else url.partition("?")[0].rpartition("/")[0]


def _read(source: str, cache: ShardCache | None) -> bytes | None:
    if not is_local(source):
        return (cache or default_cache()).read_small(source)
    try:
        return local_path(source).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read_json(source: str | Path, cache: ShardCache | None) -> Any:
    data = _read(str(source), cache)
    if data is None:
        raise DataError(f"{source}: no such file")
    return _parsed(data, str(source))


def _parsed(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"{name}: not JSON: {error}") from error
