"""Where a stream stands: what is trained on, and where the next iteration begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from clipkit.data.slicing import Slicing


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

    def start(self, slicing: Slicing) -> tuple[int, int, int]:
        """Where the next iteration begins: never at an end where no batch is left.

        Returns:
            Epoch, position, and how many samples are skipped to get there.
        """
        epoch, position = self._next
        if position and not slicing.num_batches(epoch, position):
            return epoch + 1, 0, slicing.num_samples - position
        return epoch, position, 0

    def commit(self, batch_cursor: Mapping[str, Any]) -> None:
        """A batch with this cursor has been trained on."""
        self.jump(int(batch_cursor["epoch"]), int(batch_cursor["position"]))
        self.dropped += int(batch_cursor["dropped"])

    def finish(self, epoch: int) -> None:
        """An iteration reached the end of ``epoch``."""
        self._next = (epoch + 1, 0)

    def jump(self, epoch: int, position: int) -> None:
        """Stand at this place."""
        self.committed = self._next = (epoch, position)

    def to_state(self) -> dict[str, int]:
        """Plain types."""
        epoch, position = self.committed
        return {"epoch": epoch, "position": position, "dropped": self.dropped}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Stand where ``to_state`` was taken."""
        self.jump(int(state["epoch"]), int(state["position"]))
        self.dropped = int(state["dropped"])
