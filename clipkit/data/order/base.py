"""Which sample stands where: what a stream asks of an order."""

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
    """Some samples of an order.

    Args:
        ids: Sample ids.
        passes: Of each, how often its source has been gone through before; with the id it seeds
            the sample's random numbers.
    """

    ids: Int64[np.ndarray, " B"]
    passes: Int64[np.ndarray, " B"]


class SampleOrder(ABC):
    """Which sample stands at which position of which epoch."""

    num_samples: int
    """Positions in an epoch."""
    is_endless: bool = False
    """Whether an epoch is a part of one endless sequence, which the next epoch continues."""

    @abstractmethod
    def samples_at(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> SampleIds:
        """The samples at some positions, each 0 to ``num_samples`` - 1."""

    @abstractmethod
    def replacement(self, epoch: int, position: int, attempt: int) -> SampleIds | None:
        """One sample instead of a bad one; None where bad samples leave a gap."""

    @property
    @abstractmethod
    def lookahead(self) -> int:
        """Positions from one window to the next: what is read there can be fetched by now."""

    @abstractmethod
    def source_counts(self, epoch: int, position: int) -> dict[str, int]:
        """Samples of each mixed source before a position, over all epochs; else empty."""

    @abstractmethod
    def to_state(self) -> dict[str, Any]:
        """What an order must remember to be made again, in plain types."""


@final
class ShuffledOrder(SampleOrder):
    """Every sample once an epoch, in canonical lanes.

    Args:
        lanes: The order.
    """

    def __init__(self, lanes: LaneShuffle) -> None:
        self._lanes = lanes
        self.num_samples = lanes.num_samples

    def samples_at(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> SampleIds:
        """The samples at some positions."""
        return SampleIds(self._lanes.ids(epoch, positions), np.full(len(positions), epoch))

    def replacement(self, epoch: int, position: int, attempt: int) -> SampleIds | None:
        """Another sample of the same lane."""
        sample_id = self._lanes.replacement(epoch, position, attempt)
        return SampleIds(np.array([sample_id]), np.array([epoch]))

    @property
    def lookahead(self) -> int:
        """One window of all lanes."""
        return self._lanes.lookahead

    def source_counts(self, epoch: int, position: int) -> dict[str, int]:
        """Nothing: there is one source."""
        del epoch, position
        return {}

    def to_state(self) -> dict[str, Any]:
        """The layout of the lanes."""
        return {"layouts": [self._lanes.layout.to_state()]}


@final
class SequentialOrder(SampleOrder):
    """The order of the shards themselves, the same every time: for evaluation.

    Args:
        num_samples: Samples in the data set.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def samples_at(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> SampleIds:
        """The positions themselves."""
        del epoch
        return SampleIds(positions, np.zeros_like(positions))

    def replacement(self, epoch: int, position: int, attempt: int) -> SampleIds | None:
        """None: an evaluation counts nothing twice."""
        del epoch, position, attempt
        return None

    @property
    def lookahead(self) -> int:
        """Return a fixed number: there are no windows."""
        return _SEQUENTIAL_LOOKAHEAD

    def source_counts(self, epoch: int, position: int) -> dict[str, int]:
        """Nothing: there is one source."""
        del epoch, position
        return {}

    def to_state(self) -> dict[str, Any]:
        """Nothing."""
        return {"layouts": []}
