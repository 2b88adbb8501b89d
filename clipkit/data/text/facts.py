"""Facts about concepts, and the concepts that a text mentions."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import regex

from clipkit.data.text.fact_files import NAME, fact_rows
from clipkit.errors import ConfigError, DataError
from clipkit.suggestions import did_you_mean

DEFINITION: Final = "definition"
_ALIASES: Final = "aliases"
_MAX_CONCEPTS: Final = 5_000_000
_MAX_NAME: Final = 200
_MAX_TEXT: Final = 2_000
_UNSPACED: Final = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD: Final = regex.compile(
    rf"[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]+|\p{{So}}",
    regex.VERSION1,
)
"""A word; a single character of scripts without spaces between words; or a symbol."""


@dataclass(frozen=True, slots=True)
class Concept:
    """A concept with its facts.

    Args:
        name: Its name.
        facts: Texts by kind: "definition", or the name of a relation, such as "kind of".
        aliases: Other names by which it is found in a text.
    """

    name: str
    facts: Mapping[str, str]
    aliases: tuple[str, ...] = field(default=())


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text, without differences of case and of compatible characters.

    Examples:
        >>> words_of("A Red-Panda, 小熊猫"), words_of("Straße")
        (('a', 'red', 'panda', '小', '熊', '猫'), ('strasse',))
    """
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def with_fact(text: str, fact: str) -> str:
    """Return a text with a fact after it, as K-LITE writes it (Shen et al. 2022).

    Examples:
        >>> with_fact("a photo of a cello.", "a large string instrument")
        'a photo of a cello, a large string instrument'
    """
    return f"{text.rstrip().rstrip('.')}, {fact}"


@final
class FactTable:
    """Facts about concepts, found by the names of the concepts in any text.

    Args:
        concepts: The concepts. A name that is also an alias of another one is the name.
        where: Name of the table in messages.

    Raises:
        DataError: If there are no concepts, two have the same name, or one has no words in its
            name.

    Examples:
        >>> table = FactTable([Concept("cello", {"definition": "a large string instrument"})])
        >>> [concept.name for concept in table.concepts_in("Two Cellos and a CELLO")]
        ['cello']
    """

    def __init__(self, concepts: Iterable[Concept], where: str = "facts") -> None:
        self.where = where
        self.concepts: list[Concept] = []
        self._by_words: dict[tuple[str, ...], Concept] = {}
        for concept in concepts:
            if len(self.concepts) == _MAX_CONCEPTS:
                raise DataError(f"{where}: expected at most {_MAX_CONCEPTS:,} concepts")
            words = words_of(concept.name)
            known = self._by_words.setdefault(words, concept)
            if not words or known is not concept:
                raise DataError(
                    f"{where}: expected names of their own, that differ in more than case and "
                    f"punctuation, got {concept.name!r}"
                    + (f" and {known.name!r}; join their facts" if words else ", without a word")
                )
            self.concepts.append(concept)
        if not self.concepts:
            raise DataError(f"{where}: expected at least one concept, got none")
        for concept in self.concepts:
            for alias in concept.aliases:
                self._by_words.setdefault(words_of(alias), concept)
        self._by_words.pop((), None)
        self._longest = max(map(len, self._by_words))
        self.kinds = tuple(dict.fromkeys(kind for c in self.concepts for kind in c.facts))

    @classmethod
    def from_file(cls, path: str | Path) -> FactTable:
        """Read a table: CSV or TSV with a header, JSON, or Parquet.

        Its columns are ``name``, ``definition``, ``aliases`` (other names) and any others, which
        are relations: the column "kind of" with "string instrument" is the fact "kind of string
        instrument". Aliases and relations may be lists, in CSV and TSV with ``;`` between the
        items. A JSON file is a list of such objects, or an object of definitions or of objects by
        name.

        Raises:
            ConfigError: If there is no such file.
            DataError: If it cannot be read, a row has no name or no fact, or two have one name.

        Examples:
            >>> _ = Path("facts.json").write_text('{"cello": "a large string instrument"}')
            >>> FactTable.from_file("facts.json").kinds
            ('definition',)
        """
        return cls((_concept(where, row) for where, row in fact_rows(path)), str(path))

    @property
    def digest(self) -> str:
        """Hash of the content."""
        content = [[c.name, dict(c.facts), list(c.aliases)] for c in self.concepts]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    def concepts_in(self, text: str) -> list[Concept]:
        """Return the concepts whose names a text mentions, in the order of the text, each once.

        Of names that overlap, the first one counts, and the longest that starts there.
        """
        words, at = words_of(text), 0
        found: dict[str, Concept] = {}
        while at < len(words):
            size, concept = self._longest_at(words, at)
            if concept is not None:
                found[concept.name] = concept
            at += size
        return list(found.values())

    def checked_kinds(self, kinds: Iterable[str]) -> None:
        """Refuse kinds of facts that no concept has.

        Raises:
            ConfigError: If there is one.
        """
        for kind in kinds:
            if kind not in self.kinds:
                raise ConfigError(
                    f"kinds: {self.where} has no facts of the kind {kind!r}"
                    f"{did_you_mean(kind, self.kinds)}; expected some of {', '.join(self.kinds)}"
                )

    def _longest_at(self, words: Sequence[str], at: int) -> tuple[int, Concept | None]:
        for size in range(min(self._longest, len(words) - at), 0, -1):
            concept = self._by_words.get(tuple(words[at : at + size]))
            if concept is not None:
                return size, concept
        return 1, None


def as_table(facts: FactTable | str | Path) -> FactTable:
    """Return the table itself, or read the file."""
    return facts if isinstance(facts, FactTable) else FactTable.from_file(facts)


def _concept(where: str, row: Mapping[str, Any]) -> Concept:
    name = row.get(NAME)
    if not isinstance(name, str) or not name.strip() or len(name) > _MAX_NAME:
        raise DataError(
            f"{where}: column {NAME!r}: expected a text of at most {_MAX_NAME} characters, got "
            f"{name!r:.60}"
        )
    facts = {
        column: _fact(column, texts)
        for column, value in row.items()
        if column not in (NAME, _ALIASES) and (texts := list(_texts(where, column, value)))
    }
    if not facts:
        raise DataError(f"{where}: {name!r}: expected a definition or a relation, got none")
    return Concept(name.strip(), facts, tuple(_texts(where, _ALIASES, row.get(_ALIASES))))


def _fact(column: str, texts: Sequence[str]) -> str:
    joined = ", ".join(texts)
    return joined if column == DEFINITION else f"{column.replace('_', ' ')} {joined}"


def _texts(where: str, column: str, value: Any) -> Iterator[str]:
    """Yield the texts of a cell: a definition is one text, other cells are lists of them."""
    if isinstance(value, str) and column != DEFINITION:
        value = value.split(";")
    for text in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(text, str) or len(text) > _MAX_TEXT:
            raise DataError(
                f"{where}: column {column!r}: expected texts of at most {_MAX_TEXT:,} characters, "
                f"got {text!r:.60}"
            )
        if one_line := " ".join(text.split()):
            yield one_line
