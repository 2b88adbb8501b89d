"""Numbers of samples that other tools have written down beside the shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from clipkit.data.urls import base_name
from clipkit.errors import DataError

COUNTS_FILES: Final = ("sizes.json", ".nv-meta/.info.json", ".info.json")


def read_counts(path: Path) -> dict[str, int]:
    """``base name of a shard -> number of samples``, from any of three formats.

    Args:
        path: open_clip's ``sizes.json``, energon's ``.info.json`` or a wids index.

    Raises:
        DataError: If the file is absent or has none of these formats.
    """
    return parse_counts(_read_json(path), str(path))


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


def counts_beside(folder: Path) -> dict[str, int]:
    """The counts that lie in the folder of the shards; empty where there are none."""
    for name in COUNTS_FILES:
        path = folder / name
        if path.is_file():
            return read_counts(path)
    return {}


def shards_of_wids(path: Path) -> list[str]:
    """The shards that a wids index names, relative to the index itself."""
    content = _read_json(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("shardlist"), list):
        raise DataError(f"{path}: expected a wids index with a shardlist")
    urls = [str(entry["url"]) for entry in content["shardlist"]]
    return [url if "://" in url or url.startswith("/") else str(path.parent / url) for url in urls]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
