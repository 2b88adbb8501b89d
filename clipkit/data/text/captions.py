"""Pickers that select one caption of a sample."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar, final

import numpy as np

from clipkit.data.shards.members import parsed_json, read_text
from clipkit.errors import ConfigError, SampleError

_K = TypeVar("_K")


class Candidate(NamedTuple):
    """A caption that a sample offers.

    Attributes:
        text: Caption, without white space around it.
        weight: Relative frequency with which it is selected.
        language: Its language, if the picker knows it.
    """

    text: str
    weight: float
    language: str = ""


class CaptionPicker(ABC):
    """Selects one caption of a sample, depending only on the sample and ``rng`` (abstract).

    Attributes:
        source: Description of the members with captions, for the message if there are none.
    """

    source: str

    @property
    def members(self) -> frozenset[str] | None:
        """Members that captions are read from; None if any member may be read.

        Others need not be read from the shard. A picker of your own may leave it as it is.
        """
        return None

    @abstractmethod
    def candidates(self, members: Mapping[str, bytes]) -> list[Candidate]:
        """Return every caption of the sample; an empty list if it has none.

        Args:
            members: Members of the sample by extension.

        Raises:
            SampleError: If a caption cannot be read.
        """

    def __call__(self, members: Mapping[str, bytes], rng: np.random.Generator) -> str:
        """Select one caption randomly, by weight.

        Args:
            members: Members of the sample by extension.
            rng: Random generator of the sample; exactly one number is drawn.

        Raises:
            SampleError: If there is no caption, or one cannot be read.
        """
        point = rng.random()
        candidates = self.candidates(members)
        sums = list(accumulate(candidate.weight for candidate in candidates))
        if not sums or sums[-1] <= 0:
            raise SampleError(f"no caption: {self.source} is missing or empty")
        return next(
            candidate.text
            for candidate, upper in zip(candidates, sums, strict=True)
            if point * sums[-1] < upper
        )


@final
class TextField(CaptionPicker):
    """Captions in a text member.

    Args:
        field: Extension of the member.
        one_per_line: True if each line is a caption, as in CLIP_benchmark's data sets; False if the
            complete text is one caption. None decides by sample: lines are captions if its JSON
            lists them as ``captions``, as ``clipkit shards pack`` writes it.

    Examples:
        >>> TextField("txt")({"txt": b"a dog"}, np.random.default_rng(0))
        'a dog'
    """

    def __init__(self, field: str = "txt", one_per_line: bool | None = None) -> None:
        self.field = field
        self.one_per_line = one_per_line
        self.source = f"member {field!r}"

    @property
    def members(self) -> frozenset[str]:
        """See `CaptionPicker.members`."""
        return frozenset({self.field} if self.one_per_line is not None else {self.field, "json"})

    def candidates(self, members: Mapping[str, bytes]) -> list[Candidate]:
        """See `CaptionPicker.candidates`."""
        text = read_text(members, self.field)
        lines = _lines(text)
        each = lines == listed_captions(members) if self.one_per_line is None else self.one_per_line
        return [Candidate(line, 1.0) for line in (lines if each else [text]) if line]

    def joins_lines(self, members: Mapping[str, bytes]) -> bool:
        """Return whether a sample's text has several lines that may or may not be captions."""
        lines = _lines(read_text(members, self.field))
        return self.one_per_line is None and len(lines) > 1 and lines != listed_captions(members)


@final
class JsonFields(CaptionPicker):
    """Captions in a JSON member: texts, lists of texts, and texts by language.

    The texts of a list are selected with equal probability. An object is a mapping of languages to
    texts or lists of texts.

    Args:
        fields: Weight of each field; ``"a.b"`` is the field b inside a. Fields that a sample lacks
            are ignored.
        languages: Weight of each language; None for equal weights.
        member: Extension of the member.

    Raises:
        ConfigError: If a weight is negative or not finite, or all of them are zero.

    Examples:
        >>> pick = JsonFields({"name": 1.0, "keywords": 1.0})
        >>> pick({"json": b'{"name": "dog", "keywords": []}'}, np.random.default_rng(0))
        'dog'
    """

    def __init__(
        self,
        fields: dict[str, float],
        languages: dict[str, float] | None = None,
        member: str = "json",
    ) -> None:
        self.fields = checked_weights(fields, "fields")
        self.languages = None if languages is None else checked_weights(languages, "languages")
        self.member = member
        self.source = f"fields {', '.join(fields)} of member {member!r}"

    @property
    def members(self) -> frozenset[str]:
        """See `CaptionPicker.members`."""
        return frozenset({self.member})

    def candidates(self, members: Mapping[str, bytes]) -> list[Candidate]:
        """See `CaptionPicker.candidates`."""
        text = read_text(members, self.member)
        if not text:
            return []
        content = parsed_json(text, self.member)
        return [
            candidate
            for path, weight in self.fields.items()
            for candidate in _scaled(self._texts_at(content, path), weight)
        ]

    def _texts_at(self, content: Any, path: str) -> list[Candidate]:
        for name in path.split("."):
            content = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(content, Mapping):
            return _texts(content, path)
        return of_languages(content, self.languages, path + ".{language}")


@final
class OptionalCaption(CaptionPicker):
    """Captions of another picker; an empty caption if there is none.

    Args:
        captions: Picker of the captions; None for the member ``txt``.

    Examples:
        >>> OptionalCaption()({"cls": b"3"}, np.random.default_rng(0))
        ''
    """

    def __init__(self, captions: CaptionPicker | None = None) -> None:
        self.captions = captions or TextField()
        self.source = self.captions.source

    @property
    def members(self) -> frozenset[str] | None:
        """See `CaptionPicker.members`."""
        return self.captions.members

    def candidates(self, members: Mapping[str, bytes]) -> list[Candidate]:
        """See `CaptionPicker.candidates`."""
        found = self.captions.candidates(members)
        return found if any(c.weight > 0 for c in found) else [Candidate("", 1.0)]


@final
class MixedCaptions(CaptionPicker):
    """Several pickers with weights; pickers without a caption in a sample are ignored.

    Args:
        pickers: Pickers of the captions.
        weights: Relative frequency of each picker; None for equal weights.

    Raises:
        ConfigError: If the number of weights is wrong, or they are negative or all zero.
    """

    def __init__(self, pickers: list[CaptionPicker], weights: list[float] | None = None) -> None:
        weights = [1.0] * len(pickers) if weights is None else weights
        if len(weights) != len(pickers):
            raise ConfigError(
                f"weights: expected one for each of the {len(pickers)} pickers, got {len(weights)}"
            )
        self.pickers = list(pickers)
        self.weights = list(checked_weights(dict(enumerate(weights)), "weights").values())
        self.source = " or ".join(picker.source for picker in pickers)

    @property
    def members(self) -> frozenset[str] | None:
        """See `CaptionPicker.members`."""
        found: frozenset[str] = frozenset()
        for picker in self.pickers:
            if picker.members is None:
                return None
            found |= picker.members
        return found

    def candidates(self, members: Mapping[str, bytes]) -> list[Candidate]:
        """See `CaptionPicker.candidates`."""
        return [
            candidate
            for picker, weight in zip(self.pickers, self.weights, strict=True)
            for candidate in _scaled(picker.candidates(members), weight)
        ]


def listed_captions(members: Mapping[str, bytes]) -> list[str]:
    """Return the captions that a sample's JSON lists; an empty list if there is no such list.

    Examples:
        >>> listed_captions({"json": b'{"captions": ["a dog", "a brown dog"]}'})
        ['a dog', 'a brown dog']
    """
    try:
        captions = json.loads(members.get("json", b"{}")).get("captions")
    except (ValueError, AttributeError, RecursionError):
        return []
    if not isinstance(captions, list):
        return []
    return [text.strip() for text in captions if isinstance(text, str) and text.strip()]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def of_languages(
    content: Mapping[str, Any], weights: Mapping[str, float] | None, place: str
) -> list[Candidate]:
    """Return captions from a text, or a list of texts, of each language.

    Args:
        content: Texts by language.
        weights: Weight of each language; None for equal weights. Languages without a text are
            ignored.
        place: Where the texts are, with ``{language}``, in messages.
    """
    return [
        candidate._replace(language=language)
        for language, weight in (weights or dict.fromkeys(content, 1.0)).items()
        for candidate in _scaled(
            _texts(content.get(language), place.replace("{language}", language)), weight
        )
    ]


def _texts(value: Any, where: str) -> list[Candidate]:
    """Return a text or a list of texts as captions of weight 1."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if wrong := [item for item in values if not isinstance(item, str)]:
        raise SampleError(f"field {where!r}: expected text, got {wrong[0]!r}")
    return [Candidate(item.strip(), 1.0) for item in values if item.strip()]


def _scaled(candidates: Sequence[Candidate], weight: float) -> Iterator[Candidate]:
    """Scale weights so that their sum is ``weight``."""
    total = sum(candidate.weight for candidate in candidates)
    if total > 0:
        for candidate in candidates:
            yield candidate._replace(weight=candidate.weight * weight / total)


def checked_weights(weights: dict[_K, float], option: str) -> dict[_K, float]:
    """Return the weights if they are of at least 0, and not all zero."""
    values = list(weights.values())
    if not all(math.isfinite(value) and value >= 0 for value in values) or sum(values) <= 0:
        raise ConfigError(
            f"{option}: expected weights of at least 0 and one above 0, got {dict(weights)}"
        )
    return dict(weights)
