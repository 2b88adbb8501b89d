"""Keep the keys of samples that are packed again, and make them distinct."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

_LOG: Final = logging.getLogger(__name__)
_SHOWN: Final = 3


def distinct_keys(keys: Sequence[str], where: str) -> list[str]:
    """Keep every key; a key that occurred before gets the next free number as suffix.

    Keys differ inside one shard, but separate shards often count from 0 each. Leading slashes of a
    key are removed, because absolute paths are not valid keys.

    Examples:
        >>> distinct_keys(["a", "b", "a", "a-2", "/a"], "shards")
        ['a', 'b', 'a-3', 'a-2', 'a-4']
    """
    wanted = [key.lstrip("/") for key in keys]
    taken = set(wanted)
    given: set[str] = set()
    numbers: dict[str, int] = {}
    renamed: list[str] = []
    distinct: list[str] = []
    for original, key in zip(keys, wanted, strict=True):
        new = key
        if key in given:
            number = numbers.get(key, 2)
            while (new := f"{key}-{number}") in taken:
                number += 1
            numbers[key] = number + 1
            taken.add(new)
        given.add(new)
        distinct.append(new)
        if new != original:
            renamed.append(f"{original} to {new}")
    if renamed:
        _LOG.warning(
            "%s: renamed %d of %d samples, whose keys occurred before or begin with a slash: %s%s",
            where,
            len(renamed),
            len(keys),
            ", ".join(renamed[:_SHOWN]),
            ", ..." if len(renamed) > _SHOWN else "",
        )
    return distinct
