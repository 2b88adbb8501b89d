"""Which stretch of an epoch each step and rank takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Tail = Literal["drop", "pad", "keep"]


@dataclass(frozen=True, slots=True)
class Task:
    """One batch of one rank.

    Args:
        epoch: Number of the pass.
        first: Its first position in canonical order.
        num_samples: Its samples; positions past the epoch's end wrap around (padding).
        end_epoch: Epoch of the cursor after this step, on all ranks.
        end_position: Position of that cursor.
        dropped: Samples that all ranks together leave out with this step, at the epoch's end.
    """

    epoch: int
    first: int
    num_samples: int
    end_epoch: int
    end_position: int
    dropped: int = 0


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
        return whole + (self._rest(rest)[1] > 0)

    def tasks(self, epoch: int, position: int, skipped: int = 0) -> Iterator[Task]:
        """The batches of this rank from ``position`` to the epoch's end.

        Args:
            epoch: Number of the pass.
            position: Where the first step begins.
            skipped: Samples at the end of the epoch before that were too few for a step; counted
                with the first batch.
        """
        whole, rest = divmod(self.num_samples - position, self.step_samples)
        offset, count = self._rest(rest)
        dropped = rest if self.tail == "drop" else 0
        for step in range(whole):
            start = position + step * self.step_samples
            last = step == whole - 1 and not count
            yield Task(
                epoch,
                start + self.rank * self.batch_size,
                self.batch_size,
                epoch + 1 if last else epoch,
                0 if last else start + self.step_samples,
                dropped=(skipped if step == 0 else 0) + (dropped if last else 0),
            )
        if count:
            yield Task(epoch, self.num_samples - rest + offset, count, epoch + 1, 0)

    def _rest(self, rest: int) -> tuple[int, int]:
        """Offset and size of what this rank makes of an epoch's last, incomplete step."""
        if rest == 0 or self.tail == "drop":
            return 0, 0
        if self.tail == "pad":
            return self.rank * self.batch_size, self.batch_size
        share, extra = divmod(rest, self.world_size)
        return self.rank * share + min(self.rank, extra), share + (self.rank < extra)
