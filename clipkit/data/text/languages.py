"""Captions in several languages, each in a member or JSON field of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, final

from clipkit.data.shards.members import parsed_json, read_text
from clipkit.data.text.captions import (
    Candidate,
    CaptionPicker,
    JsonFields,
    TextField,
    checked_weights,
    of_languages,
)
from clipkit.errors import ConfigError

LANGUAGE: Final = "{language}"
"""Stands for the language in the name of a member or field."""

_CODE: Final = r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*"  # such as de, pt-BR, zh_Hant
_PLACE: Final = re.compile(r"(?:(\w+):((?:[\w-]+\.)*))?([\w.-]*)\{language\}([\w-]*)")


@final
class LanguageCaptions(CaptionPicker):
    """Captions in several languages, each in a member or JSON field of its own.

    Args:
        place: Name of the members (``"txt.{language}"`` for ``KEY.txt.de``, one caption per line)
            or of the fields of a JSON member (``"json:caption_{language}"``, texts or lists of
            texts). Columns of a packed table are such fields.
        languages: Weight of each language; those without a caption in a sample are ignored. None
            for equal weights of all that a sample has, which are recognised by the form of a
            language code, such as "de" or "pt-BR".

    Raises:
        ConfigError: If the place has no ``{language}``, or nothing else and no ``languages`` are
            given, or a weight is negative or not finite, or all of them are zero.

    Examples:
        >>> pick = LanguageCaptions("json:caption_{language}", {"de": 1.0, "fr": 1.0})
        >>> pick({"json": b'{"caption_de": "ein Hund", "id": 3}'}, np.random.default_rng(0))
        'ein Hund'
        >>> LanguageCaptions("txt.{language}").candidates({"txt.de": b"ein Hund"})
        [Candidate(text='ein Hund', weight=1.0, language='de')]
    """

    def __init__(self, place: str, languages: dict[str, float] | None = None) -> None:
        match = _PLACE.fullmatch(place)
        if match is None:
            raise ConfigError(
                f"place: expected a member or JSON field with {LANGUAGE}, such as "
                f"txt.{LANGUAGE} or json:caption_{LANGUAGE}, got {place!r}"
            )
        if languages is None and not any(match.groups()[1:]):
            raise ConfigError(
                f"place: with {LANGUAGE} alone, other names of two or three letters such as id and "
                f"url would be languages too, got {place!r}; name the languages, such as "
                f"languages: {{de: 1.0, fr: 1.0}}, or give the captions names such as "
                f"json:caption_{LANGUAGE}"
            )
        self.place = place
        self.languages = None if languages is None else checked_weights(languages, "languages")
        self.source = f"{place} of {', '.join(languages)}" if languages else place
        self._member, self._parents = match[1], [*filter(None, (match[2] or "").split("."))]
        self._name = f"{match[3]}{LANGUAGE}{match[4]}"
        before, after = map(re.escape, (match[3], match[4]))
        self._form = re.compile(f"{before}({_CODE}){after}")

    @property
    def members(self) -> frozenset[str] | None:
        """See `CaptionPicker.members`."""
        return None if self._member is None else frozenset({self._member})

    def candidates(self, members: Mapping[str, bytes]) -> list[Candidate]:
        """See `CaptionPicker.candidates`."""
        if self._member is None:
            names = self._names(members, lower=True)
            content: dict[str, Any] = {
                language: [c.text for c in TextField(name, True).candidates(members)]
                for language, name in names.items()
            }
        else:
            fields = self._fields(members)
            content = {code: fields[name] for code, name in self._names(fields).items()}
        return of_languages(content, self.languages, self.place)

    def _names(self, among: Mapping[str, Any], lower: bool = False) -> dict[str, str]:
        """Return the member or field of each language that a sample has."""
        if self.languages is None:
            matches = ((self._form.fullmatch(name), name) for name in among)
            return {match[1]: name for match, name in matches if match is not None}
        names = {code: self._name.replace(LANGUAGE, code) for code in self.languages}
        if lower:  # as extensions in the index of a shard are
            names = {code: name.lower() for code, name in names.items()}
        return {code: name for code, name in names.items() if name in among}

    def _fields(self, members: Mapping[str, bytes]) -> Mapping[str, Any]:
        """Return the JSON object with a field for each language."""
        text = read_text(members, self._member)
        content = parsed_json(text, self._member) if text else {}
        for name in self._parents:
            content = content.get(name) if isinstance(content, Mapping) else None
        return content if isinstance(content, Mapping) else {}


def named_picker(name: str) -> CaptionPicker | None:
    """Return the picker that a short name describes; None if it is no such name.

    Args:
        name: A text member with one caption per line ("txt"), or a field of a JSON member
            ("json:title"); with ``{language}`` for a member or field of each language.

    Examples:
        >>> named_picker("json:title").source
        "fields title of member 'json'"
        >>> named_picker("json:title_{language}").source
        'json:title_{language}'
    """
    if _PLACE.fullmatch(name):
        return LanguageCaptions(name)
    if re.fullmatch(r"[\w.-]+", name) and not name.endswith((".yaml", ".yml")):
        return TextField(name, one_per_line=True)
    if (field := re.fullmatch(r"(\w+):([\w.-]+)", name)) is not None:
        return JsonFields({field[2]: 1.0}, member=field[1])
    return None
