"""What the captions of a data set hold: lengths, scripts, repeated captions and phrases."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from clipkit.curation.overview.frequent_items import FrequentItems
from clipkit.data.text.scripts import script_of

_CAPACITY: Final = 200_000
"""Captions, beginnings and phrases that are counted; see ``FrequentItems``."""
_SHOWN: Final = 15
_BEGINNING_WORDS: Final = 3
_PHRASE_WORDS: Final = 4
_MAX_PHRASES: Final = 100
"""Phrases of one caption that are counted; a caption can be a book."""
_MAX_CHARACTERS: Final = 200
_SMALLEST_SHARE: Final = 0.002
"""Share of the captions from which a beginning or a phrase is boilerplate."""
_FEWEST: Final = 3
_LONGEST: Final = 100
"""Captions with more words are counted together."""
_SUSPICIOUS: Final = {
    "no letters": re.compile(r"\A[\W\d_]*\Z"),
    "web address": re.compile(r"https?://|www\.", re.IGNORECASE),
    "file name": re.compile(r"\S\.(?:jpe?g|png|gif|webp|bmp|tiff?)\b", re.IGNORECASE),
    "markup": re.compile(r"</?[a-z][^<>]*>|&[a-z]+;|&#\d+;", re.IGNORECASE),
}


@dataclass(frozen=True, slots=True)
class CountedText:
    """A text and the number of captions that have it."""

    text: str
    count: int


@dataclass(frozen=True, slots=True)
class CaptionFacts:
    """Numbers of the captions of a data set.

    Args:
        num_captions: Number of captions.
        num_samples_without: Number of samples without a caption.
        num_repeated: Number of captions with the words of an earlier caption.
        words: Number of captions by their number of words; the last key stands for more words, too.
        scripts: Number of captions by script of writing: a hint at languages.
        frequent: The most frequent captions of those that occur several times.
        beginnings: The most frequent first three words.
        phrases: The most frequent four consecutive words, other than the beginnings.
        count_error: Largest number by which the counts of ``frequent``, ``beginnings`` and
            ``phrases`` are too low.
        suspicious: For each kind of text that describes no image, the number of captions and the
            first example.
    """

    num_captions: int
    num_samples_without: int
    num_repeated: int
    words: Mapping[int, int]
    scripts: Mapping[str, int]
    frequent: tuple[CountedText, ...]
    beginnings: tuple[CountedText, ...]
    phrases: tuple[CountedText, ...]
    count_error: int
    suspicious: Mapping[str, CountedText]


@final
class CaptionCounter:
    """Counts captions in bounded memory, but for eight bytes per caption.

    Examples:
        >>> counter = CaptionCounter()
        >>> counter.add([["a dog runs", "a dog"], []], [[["a", "dog", "runs"], ["a", "dog"]], []])
        >>> facts = counter.facts()
        >>> facts.num_captions, facts.num_samples_without, facts.scripts
        (2, 1, {'Latin': 2})
    """

    def __init__(self) -> None:
        self._digests = array("Q")
        self._num_without = 0
        self._lengths = Counter[int]()
        self._scripts = Counter[str]()
        self._captions = FrequentItems(_CAPACITY)
        self._beginnings = FrequentItems(_CAPACITY)
        self._phrases = FrequentItems(_CAPACITY)
        self._suspicious: dict[str, CountedText] = {}

    def add(
        self, captions: Sequence[Sequence[str]], words: Sequence[Sequence[Sequence[str]]]
    ) -> None:
        """Count the captions of some samples.

        Args:
            captions: The captions of each sample.
            words: The words of each caption, by ``words_of``.
        """
        self._num_without += sum(not of_sample for of_sample in captions)
        texts = [text for of_sample in captions for text in of_sample]
        split = [each for of_sample in words for each in of_sample]
        self._lengths.update(min(len(each), _LONGEST) for each in split)
        self._scripts.update(map(script_of, texts))
        self._digests.extend(map(_digest, split))
        self._captions.add([_shortened(text) for text in texts])
        self._beginnings.add(
            [" ".join(each[:_BEGINNING_WORDS]) for each in split if len(each) > _BEGINNING_WORDS]
        )
        self._phrases.add([phrase for each in split for phrase in _phrases(each)])
        for text in texts:
            self._note_suspicious(text)

    def facts(self) -> CaptionFacts:
        """Return the numbers of all captions so far."""
        num_captions = len(self._digests)
        digests = np.asarray(self._digests, dtype=np.uint64)
        counted = (self._captions, self._beginnings, self._phrases)
        least = max(_FEWEST, round(_SMALLEST_SHARE * num_captions))
        return CaptionFacts(
            num_captions=num_captions,
            num_samples_without=self._num_without,
            num_repeated=num_captions - len(np.unique(digests)),
            words=dict(sorted(self._lengths.items())),
            scripts=dict(sorted(self._scripts.items(), key=lambda each: (-each[1], each[0]))),
            frequent=_counted(self._captions.most_common(_SHOWN, min_count=2)),
            beginnings=_counted(self._beginnings.most_common(_SHOWN, least)),
            phrases=_counted(self._phrases.most_common(_SHOWN, least)),
            count_error=max(items.error for items in counted),
            suspicious=dict(self._suspicious),
        )

    def _note_suspicious(self, text: str) -> None:
        for kind, pattern in _SUSPICIOUS.items():
            if pattern.search(text, 0, _MAX_CHARACTERS * 10):
                known = self._suspicious.get(kind, CountedText(_shortened(text), 0))
                self._suspicious[kind] = CountedText(known.text, known.count + 1)


def _phrases(words: Sequence[str]) -> set[str]:
    """Return the distinct phrases of a caption that do not begin it."""
    starts = range(1, min(len(words) - _PHRASE_WORDS + 1, _MAX_PHRASES))
    return {" ".join(words[start : start + _PHRASE_WORDS]) for start in starts}


def _shortened(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"


def _digest(words: Sequence[str]) -> int:
    data = " ".join(words).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _counted(items: Sequence[tuple[str, int]]) -> tuple[CountedText, ...]:
    return tuple(CountedText(text, count) for text, count in items)
