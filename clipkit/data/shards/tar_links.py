"""Resolve hard and symbolic links of a tar to the members whose contents they share.

A link has no contents. Readers that ignore it silently lose the member, so every link to a file of
the same tar becomes a member with that file's position.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MAX_HOPS: Final = 40
"""Largest number of links to links that are followed, as in Linux."""


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file of a tar.

    Args:
        name: Complete path, as stored.
        offset: Offset of its contents in the tar, in bytes.
        size: Size of its contents, in bytes.
    """

    name: bytes
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Link:
    """One entry of a tar without contents.

    Args:
        name: Complete path, as stored.
        target: Path that it links to; None for a device or a pipe.
        is_hard: Whether ``target`` is relative to the root of the tar; otherwise it is relative to
            the link's folder.
    """

    name: bytes
    target: bytes | None
    is_hard: bool


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An entry whose contents are not in the tar.

    Args:
        name: Complete path, as stored.
        reason: Description of the entry.
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
    """Return the file at the end of a chain of links, or the reason if there is none."""
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
