"""What a stream asks of an order, and which stretch of it each step and rank takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.lanes import LaneOrder

Tail = Literal["drop", "pad", "keep"]


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
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

    @abstractmethod
    def draw(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> Draw:
        """The samples at some positions, each 0 to ``num_samples`` - 1."""

    @abstractmethod
    def refill(self, epoch: int, position: int, attempt: int) -> Draw | None:
        """One sample instead of a bad one; None where bad samples leave a gap."""

    @abstractmethod
    def to_state(self) -> dict[str, Any]:
        """What an order must remember to be made again, in plain types."""

    def source_names(self) -> tuple[str, ...]:
        """Names of the sources that are mixed; empty where there is only one."""
        return ()


@final
class ShuffledOrder(SampleOrder):
    """Every sample once an epoch, in canonical lanes.

    Args:
        lanes: The order.
    """

    def __init__(self, lanes: LaneOrder) -> None:
        self._lanes = lanes
        self.num_samples = lanes.num_samples

    def draw(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> Draw:
        """The samples at some positions."""
        return Draw(self._lanes.ids(epoch, positions), np.full(len(positions), epoch))

    def refill(self, epoch: int, position: int, attempt: int) -> Draw | None:
        """Another sample of the same lane."""
        sample_id = self._lanes.refill(epoch, position, attempt)
        return Draw(np.array([sample_id]), np.array([epoch]))

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

    def draw(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> Draw:
        """The positions themselves."""
        del epoch
        return Draw(positions, np.zeros_like(positions))

    def refill(self, epoch: int, position: int, attempt: int) -> Draw | None:
        """None: an evaluation counts nothing twice."""
        del epoch, position, attempt
        return None

    def to_state(self) -> dict[str, Any]:
        """Nothing."""
        return {"layouts": []}


@dataclass(frozen=True, slots=True)
class Task:
    """One batch of one rank.

    Args:
        epoch: Number of the pass.
        first: Its first position in canonical order.
        num_samples: Its samples; positions past the epoch's end wrap around (padding).
        end_epoch: Epoch of the cursor after this step, on all ranks.
        end_position: Position of that cursor.
    """

    epoch: int
    first: int
    num_samples: int
    end_epoch: int
    end_position: int


@dataclass(frozen=True, slots=True)
class Slicing:
    """How an epoch is cut into steps, and a step into ranks.

    Args:
        num_samples: Positions in an epoch.
        batch_size: Samples of a batch on one rank.
        rank: This rank.
        world_size: Number of ranks.
        tail: The last samples, too few for a whole step: left out ("drop"), made whole with the
            epoch's first samples ("pad"), or a smaller batch, shared out evenly ("keep").
    """

    num_samples: int
    batch_size: int
    rank: int
    world_size: int
    tail: Tail

    @property
    def step_samples(self) -> int:
        """Samples of a step over all ranks."""
        return self.batch_size * self.world_size

    def num_batches(self, position: int = 0) -> int:
        """Batches of this rank from ``position`` to the epoch's end."""
        whole, rest = divmod(self.num_samples - position, self.step_samples)
        return whole + (self.tail != "drop" and self._rest(rest)[1] > 0)

    def num_dropped(self) -> int:
        """Samples that an undisturbed epoch leaves out."""
        return self.num_samples % self.step_samples if self.tail == "drop" else 0

    def num_padded(self) -> int:
        """Samples that an undisturbed epoch gives twice to fill its last step, over all ranks."""
        return -self.num_samples % self.step_samples if self.tail == "pad" else 0

    def tasks(self, epoch: int, position: int) -> Iterator[Task]:
        """The batches of this rank from ``position`` to the epoch's end."""
        whole, rest = divmod(self.num_samples - position, self.step_samples)
        more = rest > 0 and self.tail != "drop"
        for step in range(whole):
            start = position + step * self.step_samples
            end = start + self.step_samples
            last = step == whole - 1 and not more
            yield Task(
                epoch,
                start + self.rank * self.batch_size,
                self.batch_size,
                epoch + 1 if last else epoch,
                0 if last else end,
            )
        offset, count = self._rest(rest)
        if more and count:
            yield Task(epoch, self.num_samples - rest + offset, count, epoch + 1, 0)

    def _rest(self, rest: int) -> tuple[int, int]:
        """Offset and size of this rank's share of an epoch's last, incomplete step."""
        if rest == 0:
            return 0, 0
        if self.tail == "pad":
            return self.rank * self.batch_size, self.batch_size
        share, extra = divmod(rest, self.world_size)
        return self.rank * share + min(self.rank, extra), share + (self.rank < extra)
