"""Hard and symbolic links of a tar, resolved to the members whose contents they share.

A link carries no contents of its own. Readers that pass over it lose the member in silence, so
every link that names a file of the same tar becomes a member at that file's place.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MAX_HOPS: Final = 40
"""Links to links that are followed; Linux has the same limit."""


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file of a tar.

    Args:
        name: Its complete path, as stored.
        offset: Where its contents start in the tar, in bytes.
        size: Length of its contents, in bytes.
    """

    name: bytes
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Link:
    """One entry of a tar without contents of its own.

    Args:
        name: Its complete path, as stored.
        target: The path that it names; None for a device or a pipe.
        is_hard: Whether ``target`` counts from the root of the tar; else from the link's folder.
    """

    name: bytes
    target: bytes | None
    is_hard: bool


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An entry whose contents are not in the tar.

    Args:
        name: Its complete path, as stored.
        reason: What it is.
    """

    name: bytes
    reason: str


def resolve_links(entries: Sequence[Member | Link]) -> tuple[list[Member], list[Unresolved]]:
    """Replace each link by a member with the contents of the file that it names.

    Examples:
        >>> resolve_links([Member(b"a.jpg", 512, 9), Link(b"b.jpg", b"a.jpg", is_hard=True)])[0]
        [Member(name=b'a.jpg', offset=512, size=9), Member(name=b'b.jpg', offset=512, size=9)]
    """
    if all(isinstance(entry, Member) for entry in entries):
        return [entry for entry in entries if isinstance(entry, Member)], []
    by_name = {posixpath.normpath(entry.name): entry for entry in entries}
    members: list[Member] = []
    unresolved: list[Unresolved] = []
    for entry in entries:
        found = entry if isinstance(entry, Member) else _follow(entry, by_name)
        if isinstance(found, Member):
            members.append(Member(entry.name, found.offset, found.size))
        else:
            unresolved.append(Unresolved(entry.name, found))
    return members, unresolved


def _follow(link: Link, by_name: dict[bytes, Member | Link]) -> Member | str:
    """The file at the end of a chain of links, or why there is none."""
    current = link
    for _ in range(_MAX_HOPS):
        if current.target is None:
            return "a device or a pipe"
        kind = "hard" if current.is_hard else "symbolic"
        folder = b"" if current.is_hard else posixpath.dirname(current.name)
        found = by_name.get(posixpath.normpath(posixpath.join(folder, current.target)))
        if found is None:
            target = current.target.decode("utf-8", "backslashreplace")
            return f"a {kind} link to {target!r}, which is no file of this tar"
        if isinstance(found, Member):
            return found
        current = found
    return "a link that leads in a circle"
