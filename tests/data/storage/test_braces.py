"""Patterns with braces, against the library braceexpand."""

from __future__ import annotations

from itertools import islice
from random import Random

from braceexpand import braceexpand

from clipkit.data.storage.braces import expand_braces

MOST_NAMES = 2_000


def random_pattern(random: Random, depth: int = 0) -> str:
    """Names, ranges and lists; no range from upper to lower case, where the library is not bash."""
    parts = []
    for _ in range(random.randint(1, 3)):
        kind = random.randrange(5)
        if kind < 2 or depth > 2:
            parts.append(random.choice(["a", "x.", "-0", "_", "é"]))
        elif kind == 2:
            first, last = (
                random.choice(["0", "00", "5", "-3", "010"]),
                random.choice(["3", "12", "007"]),
            )
            parts.append(f"{{{first}..{last}}}")
        elif kind == 3:
            first, last = random.sample("acdxz", 2)
            parts.append(f"{{{first}..{last}..{random.randint(1, 3)}}}")
        else:
            choices = (random_pattern(random, depth + 1) for _ in range(random.randint(1, 3)))
            parts.append(f"{{{','.join(choices)}}}")
    return "".join(parts)


def test_random_patterns() -> None:
    random, compared = Random(0), 0
    while compared < 500:
        pattern = random_pattern(random)
        expected = list(islice(braceexpand(pattern, escape=False), MOST_NAMES + 1))
        if len(expected) <= MOST_NAMES:
            assert list(expand_braces(pattern)) == expected, pattern
            compared += 1
