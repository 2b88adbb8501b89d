"""Filters by the image-text score: a threshold, or the best share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Float

from clipkit.curation.candidates import Candidates
from clipkit.curation.filters.base import Decision, Filter
from clipkit.curation.scores import check_has_texts
from clipkit.errors import ConfigError, check_range

MEASURE: Final = "Cosine similarity of image and caption"


@final
@dataclass(frozen=True, slots=True)
class MinScoreFilter(Filter):
    """Keeps samples whose image and caption are similar enough.

    Of several captions, the mean counts. A sample without a caption is removed.

    Args:
        min_score: Least cosine similarity, from -1 to 1.

    Raises:
        ConfigError: If it is out of range.
    """

    min_score: float

    def __post_init__(self) -> None:
        check_range("min_score", self.min_score, -1.0, 1.0)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"image-text score of at least {self.min_score:g}"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove samples with lower scores, and those without a score."""
        check_has_texts(candidates.collection, "min_score")
        scores = candidates.scores
        # A comparison with NaN is false: a sample without a score is not kept.
        return Decision(~(scores >= self.min_score), scores, MEASURE, (self.min_score,))


@final
@dataclass(frozen=True, slots=True)
class BestScoresFilter(Filter):
    """Keeps the share of the candidates with the highest image-text scores.

    Args:
        share: Share of the candidates that is kept, above 0 and at most 1. Candidates without a
            score count, and are removed first.

    Raises:
        ConfigError: If it is out of range.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ConfigError(f"best_scores: expected above 0 and at most 1, got {self.share}")

    @property
    def description(self) -> str:
        """What is kept."""
        return f"best {100 * self.share:g} % of image-text scores"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove the other samples."""
        check_has_texts(candidates.collection, "best_scores")
        scores = candidates.scores
        kept = best(scores, round(self.share * len(scores)))
        limits = (float(scores[kept].min()),) if kept.any() else ()
        return Decision(~kept, scores, MEASURE, limits)


def best(values: Float[np.ndarray, " N"], num_kept: int) -> Bool[np.ndarray, " N"]:
    """Return which are the ``num_kept`` largest values; of equal ones the first. NaN is never kept.

    Examples:
        >>> best(np.array([0.1, np.nan, 0.3, 0.1]), 2)
        array([ True, False,  True, False])
    """
    order = np.argsort(-values, kind="stable")[:num_kept]  # NaN comes last
    kept = np.zeros(len(values), dtype=np.bool_)
    kept[order] = True
    kept[np.isnan(values)] = False
    return kept
