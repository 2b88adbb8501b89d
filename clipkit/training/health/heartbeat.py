"""What each rank of a run says about itself, and what that tells about a run that stands still."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from clipkit.atomic_files import new_file

STEP: Final = "training step"
"""The phase in which ranks wait for each other."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What one rank said last.

    Args:
        rank: Who.
        host: On which machine.
        pid: In which process.
        step: Optimizer steps that are behind.
        batch: Batches of this start that are behind; moves inside a window of gradients too.
        phase: What it is doing.
        phase_since: Since when, in seconds of that machine's clock.
        time: When it said so, by the same clock.
    """

    rank: int
    host: str
    pid: int
    step: int
    batch: int
    phase: str
    phase_since: float
    time: float

    @property
    def place(self) -> str:
        """For people: rank, machine, process."""
        return f"rank {self.rank} ({self.host}, process {self.pid})"


def write_heartbeat(folder: Path, heartbeat: Heartbeat) -> None:
    """Put a rank's heartbeat into its file, whole."""
    # Waiting for a busy disk would look like a rank that has stopped.
    with new_file(_path(folder, heartbeat.rank), sync=False) as temporary:
        temporary.write_text(json.dumps(asdict(heartbeat)), encoding="utf-8")


def read_heartbeats(folder: Path, num_ranks: int) -> list[Heartbeat | None]:
    """The last heartbeat of every rank; None where there is none that can be read."""
    heartbeats: list[Heartbeat | None] = []
    for rank in range(num_ranks):
        try:
            heartbeats.append(
                Heartbeat(**json.loads(_path(folder, rank).read_text(encoding="utf-8")))
            )
        except (OSError, ValueError, TypeError):
            heartbeats.append(None)
    return heartbeats


def diagnose(
    heartbeats: Sequence[Heartbeat | None], now: float, silence_seconds: float
) -> list[str]:
    """Who keeps a run waiting, the most suspicious first; empty where nobody stands out.

    A rank that says nothing is dead, or cut off. Of those that talk, the ones that have finished
    the fewest batches are waited for: the others stand in an exchange with them.

    Args:
        heartbeats: The last of every rank, by rank.
        now: Seconds of the clock that the heartbeats are compared with.
        silence_seconds: After which a rank counts as silent.

    Returns:
        Sentences.

    Examples:
        >>> heartbeat = Heartbeat(0, "a", 7, 5, 5, "training step", 100.0, 160.0)
        >>> diagnose([heartbeat, None], 165.0, 30.0)
        ['rank 1 has never been heard of: it did not start, or it writes elsewhere']
    """
    said = []
    talking = []
    for rank, heartbeat in enumerate(heartbeats):
        if heartbeat is None:
            said.append(
                f"rank {rank} has never been heard of: it did not start, or it writes elsewhere"
            )
        elif now - heartbeat.time > silence_seconds:
            said.append(
                f"{heartbeat.place} has been silent for {now - heartbeat.time:.0f} s: dead, frozen "
                f"or cut off; its last words: step {heartbeat.step}, {heartbeat.phase}"
            )
        else:
            talking.append(heartbeat)
    last = min((heartbeat.batch for heartbeat in talking), default=0)
    behind = [heartbeat for heartbeat in talking if heartbeat.batch == last]
    phases = {heartbeat.phase for heartbeat in talking}
    if len(behind) < len(talking) or len(phases) > 1:
        if len(behind) == len(talking):  # the same batch: those that are not inside the step
            behind = [heartbeat for heartbeat in talking if heartbeat.phase != STEP] or behind
        said += [
            f"{heartbeat.place} is behind: step {heartbeat.step}, {heartbeat.phase} for "
            f"{now - heartbeat.phase_since:.0f} s"
            for heartbeat in behind
        ]
    return said


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.json"
