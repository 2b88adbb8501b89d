"""Names of the files of a shard, from the addresses of all shards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from clipkit.data.storage.urls import Address

_LONGEST: Final = 120
"""Characters of a name; a file system's limit is 255 bytes, with suffixes and a temporary name."""
_OTHER_CHARACTERS: Final = re.compile(r"[^\w.+=@-]+")


def shard_names(addresses: Sequence[Address]) -> tuple[str, ...]:
    """Return a name for each shard: that of its tar without suffix.

    Where shards have one name, each gets its number in the data as a prefix. Names differ in more
    than upper and lower case, which some file systems do not distinguish.

    Examples:
        >>> from clipkit.data.storage.urls import parse_address
        >>> shard_names([parse_address(path) for path in ("a/0.tar", "b/0.tar", "b/1.tar")])
        ('0-0', '1-0', '1')
    """
    names = [_name(address) for address in addresses]
    digits = len(str(len(names) - 1))
    while repeated := _repeated(names):
        names = [
            f"{number:0{digits}d}-{name}" if name.lower() in repeated else name
            for number, name in enumerate(names)
        ]
    return tuple(names)


def _name(address: Address) -> str:
    stem = address.name.removesuffix(".tar")
    name = _OTHER_CHARACTERS.sub("_", stem.encode(errors="replace").decode())
    return name[:_LONGEST].lstrip(".") or "shard"


def _repeated(names: Sequence[str]) -> set[str]:
    counts = Counter(name.lower() for name in names)
    return {name for name, count in counts.items() if count > 1}
