"""Filters by the length, the script and the language of captions.

Of several captions, training draws one per epoch; a mask can only keep or remove the sample. So the
mean length counts, and at least half of the captions must be in a wanted script or language.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float32

from clipkit.curation.candidates import Candidates
from clipkit.curation.filters.base import Decision, Filter, GroupCount
from clipkit.curation.filters.languages import language_detector
from clipkit.data.text.scripts import script_of
from clipkit.data.text.word_sets import words_of
from clipkit.errors import ConfigError, check_at_least


@final
@dataclass(frozen=True, slots=True)
class CaptionWordsFilter(Filter):
    """Keeps samples by the mean number of words of their captions.

    A sample without a caption is removed. In scripts without spaces between words, such as Chinese,
    each character counts as one.

    Args:
        least: Least number of words.
        most: Largest number of words; None for no limit.

    Raises:
        ConfigError: If ``least`` is negative or above ``most``.
    """

    least: int
    most: int | None = None

    def __post_init__(self) -> None:
        _check_lengths("caption_words", self.least, self.most)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"captions of {_shown_range(self.least, self.most)} words"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove samples with shorter or longer captions."""
        lengths = mean_lengths(candidates, lambda caption: len(words_of(caption)))
        return _by_length(lengths, "Words per caption", self.least, self.most)


@final
@dataclass(frozen=True, slots=True)
class CaptionCharactersFilter(Filter):
    """Keeps samples by the mean number of characters of their captions.

    A sample without a caption is removed.

    Args:
        least: Least number of characters, without white space at both ends.
        most: Largest number of characters; None for no limit.

    Raises:
        ConfigError: If ``least`` is negative or above ``most``.
    """

    least: int
    most: int | None = None

    def __post_init__(self) -> None:
        _check_lengths("caption_characters", self.least, self.most)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"captions of {_shown_range(self.least, self.most)} characters"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove samples with shorter or longer captions."""
        lengths = mean_lengths(candidates, lambda caption: len(caption.strip()))
        return _by_length(lengths, "Characters per caption", self.least, self.most)


@final
@dataclass(frozen=True, slots=True)
class ScriptFilter(Filter):
    """Keeps samples with captions in some scripts, such as Latin letters.

    A script is no language: English and German are both Latin. A caption without letters has the
    script "none". A sample without a caption is removed.

    Args:
        scripts: Names of scripts, as ``script_of`` returns them: "Latin", "Cyrillic", "Han", ...

    Raises:
        ConfigError: If there are none.
    """

    scripts: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_names("scripts", self.scripts)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"captions in the script {' or '.join(self.scripts)}"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove samples with fewer than half of their captions in the scripts."""
        return _by_name(candidates, self.scripts, script_of)


@final
@dataclass(frozen=True, slots=True)
class LanguageFilter(Filter):
    """Keeps samples with captions in some languages, as py3langid recognises them (an extra).

    A caption of few words is often ambiguous. One without letters has no language. A sample without
    a caption is removed.

    Args:
        languages: ISO 639-1 codes, such as "en".

    Raises:
        ConfigError: If there are none.
    """

    languages: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_names("languages", self.languages)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"captions in the language {' or '.join(self.languages)}"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove samples with fewer than half of their captions in the languages.

        Raises:
            ConfigError: If py3langid is not installed, or does not know a language.
        """
        return _by_name(candidates, self.languages, language_detector(self.languages))


def captions_of(candidates: Candidates) -> Iterator[tuple[slice, list[list[str]]]]:
    """Yield places of the candidates of a shard, and the captions of each."""
    for places, table in candidates.tables(["captions"]):
        yield places, [_texts(each) for each in table.column("captions").to_pylist()]


def mean_lengths(
    candidates: Candidates, length: Callable[[str], int]
) -> Float32[np.ndarray, " candidates"]:
    """Return the mean length of the captions of each candidate; NaN if it has none."""
    lengths: Float32[np.ndarray, " candidates"] = np.full(len(candidates), np.nan, np.float32)
    for places, samples in captions_of(candidates):
        lengths[places] = [
            sum(map(length, captions)) / len(captions) if captions else np.nan
            for captions in samples
        ]
    return lengths


def _texts(captions: Any) -> list[str]:
    """Return the captions of a row; a missing one is left out."""
    return [text for text in captions or () if text is not None]


def _by_length(
    lengths: Float32[np.ndarray, " candidates"], measure: str, least: int, most: int | None
) -> Decision:
    kept = lengths >= least
    limits = [float(least)]
    if most is not None:
        kept &= lengths <= most
        limits.append(float(most))
    return Decision(~kept, lengths, measure, tuple(limits))


def _by_name(
    candidates: Candidates,
    wanted: Sequence[str],
    name: Callable[[str], str],
) -> Decision:
    """Remove samples of whose captions fewer than half have a wanted name."""
    removed = np.ones(len(candidates), dtype=np.bool_)
    before, after = Counter[str](), Counter[str]()
    for places, samples in captions_of(candidates):
        for place, captions in enumerate(samples, start=places.start):
            found = [name(text) for text in captions]
            num_wanted = sum(each in wanted for each in found)
            removed[place] = not found or 2 * num_wanted < len(found)
            before.update(found)
            after.update(() if removed[place] else found)
    groups = [GroupCount(each, count, after[each]) for each, count in before.most_common()]
    return Decision(removed, groups=tuple(groups))


def _shown_range(least: int, most: int | None) -> str:
    return f"at least {least}" if most is None else f"{least} to {most}"


def _check_lengths(option: str, least: int, most: int | None) -> None:
    check_at_least(option, least, 0)
    if most is not None and most < least:
        raise ConfigError(f"{option}: expected a largest number of at least {least}, got {most}")


def _check_names(option: str, names: Sequence[str]) -> None:
    if not names or not all(names):
        raise ConfigError(f"{option}: expected at least one name, got {list(names)}")
