"""Hard negatives without a model: captions of other images that share rare words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.evaluation.building.duplicates.caption_duplicates import CaptionWords

_MOST_CAPTIONS_OF_A_WORD: Final = 2000
_CANDIDATES: Final = 64


@final
class WordNegatives:
    """Finds the captions that share the most words with a caption; rare words count more.

    The weight of a word is the number of binary digits of (captions / captions with this word), so
    that all sums are of integers.

    Args:
        captions: Words of all captions.
        chosen: Captions among which negatives are searched.
    """

    def __init__(self, captions: CaptionWords, chosen: Sequence[int]) -> None:
        self._captions = captions
        postings: dict[int, list[int]] = defaultdict(list)
        for caption in chosen:
            for word in captions.words(caption).tolist():
                postings[word].append(caption)
        self._weights = {
            word: (len(chosen) // len(holders)).bit_length() for word, holders in postings.items()
        }
        self._postings: dict[int, Int64[np.ndarray, " holders"]] = {
            word: np.array(holders, np.int64)
            for word, holders in postings.items()
            if len(holders) <= _MOST_CAPTIONS_OF_A_WORD
        }

    def nearest(
        self, caption: int, is_allowed: Callable[[int], bool], most: int
    ) -> list[tuple[float, int]]:
        """Return the most similar captions that are allowed, with similarities, the best first."""
        words = self._captions.words(caption).tolist()
        parts = [(self._postings[word], self._weights[word]) for word in words
                 if word in self._postings]  # fmt: skip
        if not parts:
            return []
        holders, numbers = np.unique(
            np.concatenate([part for part, _ in parts]), return_inverse=True
        )
        weights = np.concatenate([np.full(len(part), weight) for part, weight in parts])
        scores = np.bincount(numbers, weights)
        order = np.lexsort((holders, -scores))
        own, best = set(words), list[tuple[float, int]]()
        for other in holders[order].tolist():
            if len(best) >= max(_CANDIDATES, most):
                break
            if is_allowed(other):
                best.append((self._similarity(own, other), other))
        return sorted(best, key=lambda pair: (-pair[0], pair[1]))[:most]

    def _similarity(self, words: set[int], other: int) -> float:
        others = set(self._captions.words(other).tolist())
        common = sum(self._weights[word] for word in words & others)
        return common / sum(self._weights[word] for word in words | others)
