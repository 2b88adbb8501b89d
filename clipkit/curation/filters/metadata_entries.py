"""Metadata entries, and which of them occur in a caption."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

from clipkit.data.text.word_sets import words_of
from clipkit.errors import DataError


@final
class MetadataEntries:
    """Finds entries in captions: the words of an entry in their order, next to each other.

    Case, punctuation and white space are ignored. "cat" does not occur in "category"; in scripts
    without spaces between words, each character is a word. A caption is looked up from each of its
    words, so that the time does not grow with the number of entries.

    Args:
        entries: The entries. Those without a word are left out, and equal ones are joined.

    Attributes:
        names: The distinct entries, as they were written first.

    Examples:
        >>> entries = MetadataEntries(["red panda", "panda", "cat"])
        >>> sorted(entries.names[n] for n in entries.occurring("A Red Panda, no category."))
        ['panda', 'red panda']
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self.names: list[str] = []
        self._numbers: dict[tuple[str, ...], int] = {}
        lengths = defaultdict[str, set[int]](set)
        for entry in entries:
            words = tuple(words_of(entry))
            if words and words not in self._numbers:
                self._numbers[words] = len(self.names)
                self.names.append(entry)
                lengths[words[0]].add(len(words))
        self._lengths = {word: tuple(sorted(each)) for word, each in lengths.items()}

    def __len__(self) -> int:
        return len(self.names)

    def occurring(self, caption: str) -> set[int]:
        """Return the numbers of the entries that occur in a caption."""
        words = words_of(caption)
        found = set()
        for start, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                number = self._numbers.get(tuple(words[start : start + length]))
                if number is not None:
                    found.add(number)
        return found


def read_entries(path: Path) -> MetadataEntries:
    """Read entries: a JSON list of texts (``.json``), or a text file with one per line.

    Raises:
        DataError: If the file is missing or damaged, or has no entries.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries: Sequence[object] = (
            json.loads(text) if path.suffix == ".json" else text.splitlines()
        )
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: expected metadata entries, one per line: {reason}") from error
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list of texts, got {type(entries).__name__}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, str):
            raise DataError(f"{path}: entry {number}: expected a text, got {entry!r}")
    found = MetadataEntries(entry for entry in entries if isinstance(entry, str))
    if not len(found):
        raise DataError(f"{path}: expected metadata entries, one per line, got none")
    return found
