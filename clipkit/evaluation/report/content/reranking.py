"""What re-ranking by a joint encoder changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clipkit.evaluation.report.content.inputs import ShownInput

Effect = Literal["better", "worse", "other"]
"""Whether the first candidate became right, was right before, or neither."""


@dataclass(frozen=True, slots=True)
class ChangedQuery:
    """A query whose first candidate is another one after re-ranking.

    Args:
        query: The query.
        before: First candidate by the similarity of embeddings.
        after: First candidate after re-ranking.
        is_match: Whether the one before and the one after belong to the query.
    """

    query: ShownInput
    before: ShownInput
    after: ShownInput
    is_match: tuple[bool, bool]

    @property
    def effect(self) -> Effect:
        """What the change did to the first candidate."""
        before, after = self.is_match
        if before == after:
            return "other"
        return "better" if after else "worse"


@dataclass(frozen=True, slots=True)
class RerankedQueries:
    """Queries of one direction.

    Args:
        direction: What is looked for, such as "Text to image".
        recalls: Number k of candidates, and recall at k before and after.
        seconds_per_query: Time of the fusion.
        num_queries: Number of queries.
        num_changed: Number of queries whose first candidate is another one.
        examples: Some of these queries.
    """

    direction: str
    recalls: Sequence[tuple[int, float, float]]
    seconds_per_query: float
    num_queries: int
    num_changed: int
    examples: Sequence[ChangedQuery] = ()


@dataclass(frozen=True, slots=True)
class Reranking:
    """Retrieval before and after re-ranking.

    Args:
        num_best: Number of candidates of each query that were scored again.
        directions: Queries of each direction.
        note: How the examples were selected.
    """

    num_best: int
    directions: Sequence[RerankedQueries]
    note: str = ""
