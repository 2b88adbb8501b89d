"""Where a stream stands: what is trained on, and where the next iteration begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from clipkit.data.order.partition import EpochPartition


@final
class Cursor:
    """Positions of a stream, over all ranks.

    What was committed is what a state holds. An iteration that ran out before its last batches were
    committed moves only where the next one begins.
    """

    def __init__(self) -> None:
        self.committed = (0, 0)
        """Epoch and position after the last batch that was trained on."""
        self.dropped = 0
        """Samples left out at the ends of epochs so far."""
        self._next = (0, 0)
        self._handed = (0, 0)
        self._end: tuple[int, int] | None = None

    def start(self, partition: EpochPartition) -> tuple[int, int, int]:
        """Where the next iteration begins: never at an end where no rank has a batch left.

        Returns:
            Epoch, position, and how many samples are skipped to get there.
        """
        epoch, position = self._next
        if position and not partition.has_steps(epoch, position):
            return epoch + 1, 0, partition.num_samples - position
        return epoch, position, 0

    def begin(self) -> None:
        """An iteration begins; no batch of it was handed out yet."""
        self._handed, self._end = self.committed, None

    def hand_out(self, batch_cursor: Mapping[str, Any]) -> None:
        """A batch with this cursor is handed out."""
        self._handed = (int(batch_cursor["epoch"]), int(batch_cursor["position"]))

    def commit(self, batch_cursor: Mapping[str, Any]) -> None:
        """A batch with this cursor has been trained on."""
        place = (int(batch_cursor["epoch"]), int(batch_cursor["position"]))
        self.committed = self._next = place
        self.dropped += int(batch_cursor["dropped"])
        self._close()

    def finish(self, end: tuple[int, int]) -> None:
        """An iteration ran out; all ranks together stand at ``end``.

        A rank that has none of an epoch's last samples, or none that can be used, is there as soon
        as its own last batch was trained on.
        """
        self._next = self._end = end
        self._close()

    def jump(self, epoch: int, position: int) -> None:
        """Stand at this place."""
        self.committed = self._next = self._handed = (epoch, position)
        self._end = None

    def _close(self) -> None:
        if self._end is not None and self.committed == self._handed:
            self.jump(*self._end)

    def to_state(self) -> dict[str, int]:
        """Plain types."""
        epoch, position = self.committed
        return {"epoch": epoch, "position": position, "dropped": self.dropped}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Stand where ``to_state`` was taken."""
        self.jump(int(state["epoch"]), int(state["position"]))
        self.dropped = int(state["dropped"])
