"""Near-duplicate captions: by the share of common words."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Int64, UInt32, UInt64

from clipkit.data.text.word_sets import (
    NUM_HASHES,
    min_hashes,
    similarity,
    word_hashes,
    words_of,
)
from clipkit.evaluation.building.duplicates.pair_search import (
    NearPairs,
    PairSearch,
    distinct_pairs,
    equal_rows,
)

_SLACK: Final = 0.25
"""Error of the similarity that signatures of 32 hashes estimate, at three standard deviations."""
_MANY_WORDS: Final = 0.8


@final
class CaptionWords:
    """The words of all captions: hashes in arrays, instead of texts in memory.

    Attributes:
        owners: Number of the sample of each caption.
    """

    def __init__(self) -> None:
        self.owners = array("q")
        self._hashes = array("I")
        self._starts = array("q", [0])
        self._sequences = array("Q")
        self._sets = array("Q")

    def __len__(self) -> int:
        return len(self.owners)

    def append(self, owner: int, caption: str) -> None:
        """Append a caption of a sample."""
        words = words_of(caption) or [caption.strip()]
        hashes = word_hashes(words)
        self.owners.append(owner)
        self._hashes.frombytes(hashes.tobytes())
        self._starts.append(len(self._hashes))
        self._sequences.append(_digest(" ".join(words).encode("utf-8", "surrogatepass")))
        self._sets.append(_digest(hashes.tobytes()))

    def words(self, caption: int) -> UInt32[np.ndarray, " words"]:
        """Return the sorted hashes of the distinct words of a caption."""
        start, end = self._starts[caption], self._starts[caption + 1]
        return np.asarray(self._hashes)[start:end]

    def lengths(self, samples: Bool[np.ndarray, " N"]) -> Int64[np.ndarray, " captions"]:
        """Return the numbers of distinct words of the captions of some samples."""
        lengths: Int64[np.ndarray, " captions"] = np.diff(np.asarray(self._starts))[
            samples[np.asarray(self.owners)]
        ]
        return lengths

    def sets(self) -> UInt64[np.ndarray, " texts"]:
        """Return a number for each caption that is equal for equal sets of words."""
        return np.asarray(self._sets)

    def sequences(self) -> UInt64[np.ndarray, " texts"]:
        """Return a number for each caption that is equal for equal words in equal order."""
        return np.asarray(self._sequences)


@dataclass(slots=True)
class DuplicateCaptions:
    """Captions with nearly the same words.

    Args:
        same: For each of the M captions, the number of its set of captions with equal words.
        pairs: Pairs of sets that are similar enough; values are similarities.
        representatives: First caption of each set.
        num_cut: Number of comparisons that were cut off; see ``PairSearch``.
    """

    same: Int64[np.ndarray, " texts"]
    pairs: NearPairs
    representatives: Int64[np.ndarray, " distinct"]
    num_cut: int


def duplicate_captions(captions: CaptionWords, least_similarity: float) -> DuplicateCaptions:
    """Find captions whose words are the same to a share of at least ``least_similarity``.

    Candidates agree in a part of their MinHash signatures; they are compared word by word.
    """
    firsts, same = equal_rows(captions.sets()[:, None])
    signatures = np.empty((len(firsts), NUM_HASHES), np.uint32)
    for number, caption in enumerate(firsts.tolist()):
        signatures[number] = min_hashes(captions.words(caption))
    search, found = PairSearch(), list[NearPairs]()
    width = 4 if least_similarity >= _MANY_WORDS else 2
    # An exact similarity of 1 is that of equal sets, which are found already.
    starts = range(0, NUM_HASHES, width) if least_similarity < 1 else ()
    for start in starts:
        part = np.ascontiguousarray(signatures[:, start : start + width]).view(np.uint64)
        for first, second in search.pairs(_mixed(part), part):
            agreeing = (signatures[first] == signatures[second]).mean(1)
            near = agreeing >= least_similarity - _SLACK
            found.append(NearPairs(first[near], second[near], agreeing[near]))
        found = [distinct_pairs(found, len(firsts), smallest=False)]
    candidates = distinct_pairs(found, len(firsts), smallest=False)
    exact = np.array(
        [
            similarity(captions.words(firsts[a]), captions.words(firsts[b]))
            for a, b in zip(candidates.first, candidates.second, strict=True)
        ]
    )
    near = exact >= least_similarity
    pairs = NearPairs(candidates.first[near], candidates.second[near], exact[near])
    return DuplicateCaptions(same, pairs, firsts, search.num_cut)


def _mixed(words: UInt64[np.ndarray, "N words"]) -> UInt64[np.ndarray, " N"]:
    """Return one number for the words of a row; different words may get the same number."""
    mixed = np.zeros(len(words), np.uint64)
    for column in words.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
