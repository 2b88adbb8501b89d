"""The interface of filters: a decision on each sample that previous filters kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Int64

from clipkit.curation.candidates import Candidates

NOT_A_COPY: Final = -1
"""``Decision.copy_of`` of a candidate that is kept."""


@dataclass(frozen=True, slots=True)
class GroupCount:
    """Number of samples of a class, or with a metadata entry, before and after a filter."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What a filter decided on each candidate.

    Args:
        removed: Whether each candidate is removed.
        values: What was measured, such as the score; NaN where it is unknown. None if the filter
            measures nothing.
        measure: Name and unit of ``values``.
        limits: The values at which candidates are separated, in ascending order.
        copy_of: Row of the kept sample that each removed candidate is a copy of, and
            ``NOT_A_COPY`` for others; None if the filter does not look for copies.
        nearest: Row of the most similar sample that each candidate was compared with, and
            ``NOT_A_COPY`` without one; None if there is no such sample.
        copies_from: Folder of the other collection whose rows ``copy_of`` and ``nearest`` are; ""
            for the same one.
        groups: Groups that were balanced, the largest first.
        notes: Sentences about the decision, such as limits of a search.
    """

    removed: Bool[np.ndarray, " candidates"]
    values: Float32[np.ndarray, " candidates"] | None = None
    measure: str = ""
    limits: tuple[float, ...] = ()
    copy_of: Int64[np.ndarray, " candidates"] | None = None
    nearest: Int64[np.ndarray, " candidates"] | None = None
    copies_from: str = ""
    groups: tuple[GroupCount, ...] = ()
    notes: tuple[str, ...] = ()


class Filter(ABC):
    """Decides which samples a run trains on.

    A filter sees only the candidates: the samples that the filters before it kept. Its decision
    depends on them, on its options and on nothing else.
    """

    @property
    @abstractmethod
    def description(self) -> str:
        """What is kept, with all options, as a mask and the summary name the filter."""

    @abstractmethod
    def decide(self, candidates: Candidates) -> Decision:
        """Decide on each candidate.

        Raises:
            DataError: If the collection lacks what the filter needs.
            ConfigError: If an option does not fit the collection.
        """
