"""The words of captions that are typical of each cluster: log-odds ratios with a prior.

Monroe, Colaresi & Quinn 2008, "Fightin' Words", section 3.5.1 (weighted log-odds ratio with an
informative Dirichlet prior): the words of a cluster are compared with those of all other clusters.
The prior is the frequency of the words in all captions, so that neither common words ("a", "the")
nor words that occurred once by accident come first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from typing import Final, final

import numpy as np
from jaxtyping import Float, Int64

_PRIOR_WORDS: Final = 100.0
"""Weight of the prior, in words."""
_SIGNIFICANT: Final = 1.96
"""z-score above which the difference is significant at 5 %."""
_MAX_WORDS: Final = 20_000
"""Words of a cluster that are counted; of more, the rarest are dropped."""


@final
class WordCounts:
    """Counts the samples of each cluster whose captions contain a word.

    A word counts once per sample, so that a caption that repeats a word has no more weight. The
    memory is bounded: when a cluster has twice ``max_words`` words, the rarest half is dropped.

    Args:
        num_clusters: Number of clusters.
        max_words: Words of a cluster that are kept at least.

    Examples:
        >>> counts = WordCounts(num_clusters=2)
        >>> for number in range(40):
        ...     counts.add(0, {"a", "dog", f"name{number}"})
        ...     counts.add(1, {"a", "boat", f"name{number}"})
        >>> counts.typical_words(num_words=3)
        [[('dog', 40)], [('boat', 40)]]
    """

    def __init__(self, num_clusters: int, max_words: int = _MAX_WORDS) -> None:
        self._counts = [Counter[str]() for _ in range(num_clusters)]
        self._max_words = max_words

    def add(self, cluster: int, words: Set[str]) -> None:
        """Count the distinct words of the captions of a sample."""
        counts = self._counts[cluster]
        counts.update(words)
        if len(counts) > 2 * self._max_words:
            self._counts[cluster] = Counter(dict(counts.most_common(self._max_words)))

    def typical_words(self, num_words: int) -> list[list[tuple[str, int]]]:
        """Return the most typical words of each cluster, with the number of its samples.

        Only words are returned that are significantly more frequent in the cluster than in all
        others (z-score above 1.96). Of a single cluster, they are the most frequent words.

        Args:
            num_words: Largest number of words of a cluster.
        """
        total = sum(self._counts, Counter[str]())
        words = [list(counts) for counts in self._counts]
        return [
            _most_typical(own, counts, total, num_words)
            for own, counts in zip(words, self._counts, strict=True)
        ]


def log_odds(
    inside: Int64[np.ndarray, " W"],
    outside: Int64[np.ndarray, " W"],
    num_inside: int,
    num_outside: int,
    prior_words: float = _PRIOR_WORDS,
) -> Float[np.ndarray, " W"]:
    """Return the z-score of the log-odds ratio of each word between two sets of texts.

    Args:
        inside: Number of each word in the one set.
        outside: Number of each word in the other set.
        num_inside: Number of all words in the one set, also of those that are not asked for.
        num_outside: Number of all words in the other set.
        prior_words: Weight of the prior, in words.

    Returns:
        Positive where a word is more frequent inside; above 1.96 where it is significant at 5 %.

    Examples:
        >>> scores = log_odds(np.array([50, 50]), np.array([0, 50]), 100, 50)
        >>> bool(scores[0] > 1.96), bool(scores[1] < 0)
        (True, True)
    """
    prior = prior_words * (inside + outside) / (num_inside + num_outside)
    first, second = inside + prior, outside + prior
    odds = np.log(first) - np.log(num_inside + prior_words - first)
    others = np.log(second) - np.log(num_outside + prior_words - second)
    scores: Float[np.ndarray, " W"] = (odds - others) / np.sqrt(1 / first + 1 / second)
    return scores


def _most_typical(
    words: Sequence[str], counts: Counter[str], total: Counter[str], num_words: int
) -> list[tuple[str, int]]:
    if not words:
        return []
    inside = np.array([counts[word] for word in words], dtype=np.int64)
    everywhere = np.array([total[word] for word in words], dtype=np.int64)
    num_inside, num_all = counts.total(), total.total()
    scores = log_odds(inside, everywhere - inside, num_inside, num_all - num_inside)
    if num_inside == num_all:
        scores = _SIGNIFICANT + inside.astype(np.float64)
    order = sorted(
        np.flatnonzero(scores > _SIGNIFICANT).tolist(), key=lambda at: (-scores[at], words[at])
    )
    return [(words[at], int(inside[at])) for at in order[:num_words]]
