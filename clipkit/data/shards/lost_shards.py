"""Find shards that do not exist though counts in a folder list them, and refuse too many faults."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from typing import Final

from clipkit.data.shards.counts import counts_by_folder
from clipkit.data.storage.cache import ShardCache
from clipkit.data.storage.urls import Address, Patterns, exists, is_folder, parse_patterns
from clipkit.errors import ShardError

_LOG: Final = logging.getLogger(__name__)
_NAMED_ERRORS: Final = 5

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


def check_faults(faults: Sequence[tuple[str, str]], allowed: int, num_shards: int) -> None:
    """Report the shards that cannot be used, or refuse them if they are more than allowed.

    Raises:
        ShardError: If they are more than allowed, or all.
    """
    if not faults:
        return
    if len(faults) > allowed or len(faults) == num_shards:
        if len(faults) == 1:
            raise ShardError(faults[0][1])
        named = "\n  ".join(reason for _, reason in faults[:_NAMED_ERRORS])
        more = f"\n  and {len(faults) - _NAMED_ERRORS} more" if len(faults) > _NAMED_ERRORS else ""
        raise ShardError(
            f"{len(faults)} of {num_shards} shards cannot be used "
            f"(allowed: max_bad_shards={allowed}):\n  {named}{more}"
        )
    for _, reason in faults:
        _LOG.warning("skipping shard %s", reason)
