"""Find shards that the counts in a folder list, and that do not exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from glob import has_magic

from clipkit.data.shards.counts import counts_by_folder
from clipkit.data.storage.cache import ShardCache
from clipkit.data.storage.urls import Address, Patterns, exists, is_folder, parse_patterns
from clipkit.errors import ShardError

FolderCounts = Mapping[Address, Mapping[str, int]]
"""Folder -> base name of a shard -> number of samples."""


def lost_shards(
    patterns: Patterns, shards: Sequence[Address], stored: FolderCounts
) -> list[tuple[str, str]]:
    """List the shards that a folder's counts name and that are not in it.

    Only patterns that mean "all that is there" are compared: folders and globs. A list of names
    or a brace pattern chooses, and may leave out what it likes.
    """
    wide = list(_wide_patterns(patterns))
    present = {(shard.folder, shard.name) for shard in shards}
    lost = []
    for folder, counts in stored.items():
        for base, count in sorted(counts.items()):
            url = str(folder.child(base))
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
    patterns: Patterns, shards: Sequence[Address], cache: ShardCache | None = None
) -> None:
    """Refuse folders that lack a shard; see ``lost_shards``."""
    lost = lost_shards(patterns, shards, counts_by_folder(shards, cache=cache))
    if lost:
        raise ShardError("; ".join(reason for _, reason in lost))


def _wide_patterns(patterns: Patterns) -> list[str]:
    """Return the globs among the patterns; a folder is the glob of its tars."""
    found = []
    for one in parse_patterns(patterns, allow_pipe=True):  # none is opened here
        if not one.is_local:
            found += [one.text] if one.kind == "remote" and "*" in one.text else []
        elif is_folder(one.path):
            found.append(str(one.path / "*.tar"))
        elif has_magic(one.text) and not exists(one.path):
            found.append(one.text)
    return found


def _matches(url: str, pattern: str) -> bool:
    """Return whether a glob means a place; only ``**`` crosses folders."""
    if "**" in pattern:
        return fnmatchcase(url, pattern) or fnmatchcase(url, pattern.replace("**/", ""))
    parts, wanted = url.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
