"""Find shards that a folder should hold, by the counts that are stored in it, and does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

from clipkit.data.cache import ShardCache
from clipkit.data.counts import counts_by_folder, folder_of
from clipkit.data.urls import PIPE_PREFIX, base_name, expand_braces, is_local, local_path
from clipkit.errors import ShardError

FolderCounts = Mapping[str, Mapping[str, int]]
"""Path or URL of a folder -> base name of a shard -> number of samples."""


def lost_shards(
    patterns: Sequence[str], names: Sequence[str], beside: FolderCounts
) -> list[tuple[str, str]]:
    """List the shards that a folder's own counts name and that are not in it.

    Only patterns that mean "all that is there" are compared: folders and globs. A list of names
    or a brace pattern chooses, and may leave out what it likes.

    Args:
        patterns: What the user wrote.
        names: The shards that the patterns matched.
        beside: The counts stored in the shards' folders.

    Returns:
        ``(url, reason)`` of each lost shard, in the order of folders and names.
    """
    wide = list(_wide_patterns(patterns))
    present = {(folder_of(name), base_name(name)) for name in names}
    lost = []
    for folder, counts in beside.items():
        for base, count in sorted(counts.items()):
            url = str(Path(folder) / base) if is_local(folder) else f"{folder}/{base}"
            if (folder, base) in present or not any(_matches(url, pattern) for pattern in wide):
                continue
            lost.append(
                (
                    url,
                    f"{url}: no such file, but the counts stored in {folder} name it with "
                    f"{count} samples; bring it back, or take it out of that file",
                )
            )
    return lost


def check_complete(
    patterns: Sequence[str], names: Sequence[str], cache: ShardCache | None = None
) -> None:
    """Refuse folders that lack a shard; see ``lost_shards``.

    Args:
        patterns: What the user wrote.
        names: The shards that the patterns matched.
        cache: Retry settings for remote folders; None for the default cache.

    Raises:
        ShardError: If shards are missing. Names all of them.
    """
    lost = lost_shards(patterns, names, counts_by_folder(names, cache=cache))
    if lost:
        raise ShardError("; ".join(reason for _, reason in lost))


def _wide_patterns(patterns: Sequence[str]) -> list[str]:
    """Return the globs among the patterns; a folder is the glob of its tars."""
    found = []
    parts = [part for text in patterns if not text.startswith(PIPE_PREFIX)
             for part in text.split("::") if part]  # fmt: skip
    for url in (url for part in parts for url in expand_braces(part)):
        if not is_local(url):
            found += [url] if "*" in url else []
        elif (path := local_path(url)).is_dir():
            found.append(str(path / "*.tar"))
        elif has_magic(url) and not path.exists():
            found.append(str(path))
    return found


def _matches(url: str, pattern: str) -> bool:
    """Return whether a glob means a place; only ``**`` crosses folders."""
    if "**" in pattern:
        return fnmatchcase(url, pattern) or fnmatchcase(url, pattern.replace("**/", ""))
    parts, wanted = url.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
