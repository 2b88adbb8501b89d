"""The first filter: samples that could not be embedded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from clipkit.curation.candidates import Candidates
from clipkit.curation.filters.base import Decision, Filter


@final
@dataclass(frozen=True, slots=True)
class ReadableFilter(Filter):
    """Removes samples that could not be embedded: their ``error`` says why."""

    @property
    def description(self) -> str:
        """What is kept."""
        return "readable"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove samples with an error."""
        removed = np.zeros(len(candidates), dtype=np.bool_)
        for places, table in candidates.tables(["error"]):
            removed[places] = table.column("error").is_valid().to_numpy()
        return Decision(removed)
