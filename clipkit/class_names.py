"""Lists of class names: one name per class number, empty where a number has no name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clipkit.errors import ConfigError, DataError

UNKNOWN: Final = -1
"""Value in a map of classes for a class that is not in the other list."""


def parse_class_names(text: str) -> tuple[str, ...]:
    r"""Read the content of a ``classnames.txt``: line N names class N, a blank line names none.

    Examples:
        >>> parse_class_names("cat\n\ndog\n\n")
        ('cat', '', 'dog')
    """
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return tuple(lines)


def class_names_text(names: Sequence[str]) -> str:
    """Write what ``parse_class_names`` reads."""
    return "".join(f"{name}\n" for name in names)


def read_class_names(path: str, option: str) -> list[str]:
    """Read a file with one name per line, in the order of the class numbers."""
    try:
        return list(parse_class_names(Path(path).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: cannot read {path}: {error}") from error


def shown_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Name every class for people and keys: no two alike, the number where there is no name.

    Examples:
        >>> shown_names(["crane", "crane", ""], 4)
        ('crane (0)', 'crane (1)', '2', '3')
    """
    given = [*names[:num_classes], *[""] * (num_classes - len(names))]
    own = [name or str(number) for number, name in enumerate(given)]
    counts = Counter(own)
    return tuple(n if counts[n] == 1 else f"{n} ({number})" for number, n in enumerate(own))


def number_of(name: str, names: Sequence[str], own: int | None, where: str) -> int:
    """Find the number of a class by its name."""
    if own is not None and own < len(names) and names[own] == name:
        return own
    found = [number for number, known in enumerate(names) if known == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{where}: class {name!r} is the name of {len(found)} classes ({found[0]}, {found[1]}"
            f"{', ...' if len(found) > 2 else ''}); give the number too, or make the names differ"
        )
    count = sum(map(bool, names))
    raise DataError(
        f"{where}: class {name!r} is not among the {count} known classes ({listed_names(names)})"
    )


def listed_names(names: Sequence[str]) -> str:
    """List the first names for a message."""
    known = [name for name in names if name]
    return f"{', '.join(known[:8])}{', ...' if len(known) > 8 else ''}"


def map_classes(given: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Find each class of one list in another, by name.

    A class without a name keeps its number, provided that all names that both lists have are at
    the same numbers.

    Examples:
        >>> map_classes(["a", "c", "d"], ["a", "b", "c"])
        [0, 2, -1]
    """
    in_given, in_wanted = Counter(given), Counter(wanted)
    numbers = {name: number for number, name in enumerate(wanted)}
    found: list[int] = []
    for number, name in enumerate(given):
        is_same = number < len(wanted) and wanted[number] == name
        is_single = in_given[name] == 1 and in_wanted[name] == 1
        found.append(number if is_same else numbers[name] if name and is_single else UNKNOWN)
    if all(to in (number, UNKNOWN) for number, to in enumerate(found)):
        for number in range(min(len(given), len(wanted))):
            if not given[number]:
                found[number] = number
    return found


def conflict(given: Sequence[str], other: Sequence[str]) -> int | None:
    """Find the first class that two lists name differently."""
    pairs = enumerate(zip(given, other, strict=False))
    return next((number for number, (a, b) in pairs if a and b and a != b), None)
