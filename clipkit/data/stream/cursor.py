"""Positions of a stream: after the committed batches, and of the next iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final


@final
class Cursor:
    """Positions of a stream, over all ranks.

    A state contains what was committed. An iteration that ended before its last batches were
    committed changes only the start of the next one.
    """

    def __init__(self) -> None:
        self.committed = (0, 0)
        """Epoch and position after the last committed batch."""
        self.dropped = 0
        """Number of samples dropped at the ends of epochs so far."""
        self.next = (0, 0)
        """Epoch and position at which the next iteration starts."""
        self._begun = (0, 0)
        self._handed = (0, 0)
        self._end: tuple[int, int] | None = None

    def begin(self) -> None:
        """Begin an iteration, of which no batch was yielded yet."""
        self._begun = self._handed = self.committed
        self._end = None

    def hand_out(self, batch_cursor: Mapping[str, Any]) -> None:
        """Record that a batch with this cursor was yielded."""
        self._handed = (int(batch_cursor["epoch"]), int(batch_cursor["position"]))

    def commit(self, batch_cursor: Mapping[str, Any]) -> None:
        """Record that a batch with this cursor has been trained on."""
        place = (int(batch_cursor["epoch"]), int(batch_cursor["position"]))
        self.committed = self.next = place
        self.dropped += int(batch_cursor["dropped"])
        self._close()

    def finish(self, end: tuple[int, int]) -> None:
        """End an iteration; the position of all ranks is ``end``.

        A rank that has none of an epoch's last samples, or none that can be used, is there as soon
        as its last batch was trained on.
        """
        self.next = self._end = end
        self._close()

    def abandon(self) -> None:
        """Forget the end of an iteration whose last batches were not committed, but others were.

        A loader that reads ahead asks for the batch after the last one before that is trained on.
        An iteration without any commit, as of validation, has ended.
        """
        if self._end is not None and self._begun != self.committed != self._handed:
            self.next, self._end = self.committed, None

    def jump(self, epoch: int, position: int) -> None:
        """Move to a position."""
        self.committed = self.next = self._handed = (epoch, position)
        self._end = None

    def _close(self) -> None:
        if self._end is not None and self.committed == self._handed:
            self.jump(*self._end)

    def to_state(self) -> dict[str, int]:
        """Return plain types for a checkpoint."""
        epoch, position = self.committed
        return {"epoch": epoch, "position": position, "dropped": self.dropped}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the position of ``to_state``."""
        self.jump(int(state["epoch"]), int(state["position"]))
        self.dropped = int(state["dropped"])
