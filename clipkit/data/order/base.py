"""The interface of sample orders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.order.lanes import LaneShuffle

_SEQUENTIAL_LOOKAHEAD: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class SampleIds:
    """Some samples of an order."""

    ids: Int64[np.ndarray, " B"]  # sample ids
    # for each sample, the number of completed passes over its source. Together with the sample id
    # it seeds the sample's random generator
    passes: Int64[np.ndarray, " B"]


class SampleOrder(ABC):
    """Map from epochs and positions to samples (abstract)."""

    num_samples: int
    """Number of positions in an epoch."""
    is_endless: bool = False
    """Whether epochs are parts of one endless sequence."""
    replaces: bool = True
    """Whether bad samples are replaced, so that batches are complete."""

    @abstractmethod
    def samples_at(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> SampleIds:
        """Return the samples at positions from 0 to ``num_samples`` - 1."""

    @abstractmethod
    def replacement(self, epoch: int, position: int, attempt: int) -> SampleIds | None:
        """Return a sample that replaces a bad one; None if bad samples are not replaced."""

    @property
    @abstractmethod
    def lookahead(self) -> int:
        """Number of positions between windows, by which reads can be prefetched."""

    def source_counts(self, epoch: int, position: int) -> dict[str, int]:
        """Count the samples of each mixed source before a position, over all epochs; else empty."""
        del epoch, position
        return {}

    @abstractmethod
    def to_state(self) -> dict[str, Any]:
        """Return the state that restores this order, in plain types."""


@final
class ShuffledOrder(SampleOrder):
    """Every sample once per epoch, in lanes."""

    def __init__(self, lanes: LaneShuffle) -> None:
        self._lanes = lanes
        self.num_samples = lanes.num_samples

    def samples_at(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> SampleIds:
        """Return the samples at some positions."""
        return SampleIds(self._lanes.ids(epoch, positions), np.full(len(positions), epoch))

    def replacement(self, epoch: int, position: int, attempt: int) -> SampleIds | None:
        """Return another sample of the same lane."""
        sample_id = self._lanes.replacement(epoch, position, attempt)
        return SampleIds(np.array([sample_id]), np.array([epoch]))

    @property
    def lookahead(self) -> int:
        """Return the number of samples in one window of all lanes."""
        return self._lanes.lookahead

    def to_state(self) -> dict[str, Any]:
        """Return the layout of the lanes."""
        return {"layouts": [self._lanes.layout.to_state()]}


@final
class SequentialOrder(SampleOrder):
    """The order of the shards, the same in every epoch, for evaluation."""

    replaces = False

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def samples_at(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> SampleIds:
        """Return the positions."""
        del epoch
        return SampleIds(positions, np.zeros_like(positions))

    def replacement(self, epoch: int, position: int, attempt: int) -> SampleIds | None:
        """Return None: an evaluation counts no sample twice."""
        del epoch, position, attempt
        return None

    @property
    def lookahead(self) -> int:
        """Return a fixed number: there are no windows."""
        return _SEQUENTIAL_LOOKAHEAD

    def to_state(self) -> dict[str, Any]:
        """Nothing."""
        return {"layouts": []}
