"""Heartbeats of ranks, and the diagnosis of a run without progress."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from clipkit.atomic_files import new_file

STEP: Final = "training step"
"""Name of the phase in which ranks wait for each other."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Last heartbeat of one rank."""

    rank: int  # number of the rank
    host: str  # name of the machine
    pid: int  # id of the process
    step: int  # number of completed optimizer steps
    batch: int  # number of completed batches of this launch, also inside a window of gradients
    phase: str  # name of the current phase
    phase_since: float  # start of the phase, in seconds of that machine's clock
    time: float  # time of the heartbeat, by the same clock

    @property
    def place(self) -> str:
        """Rank, machine and process for messages."""
        return f"rank {self.rank} ({self.host}, process {self.pid})"


def write_heartbeat(folder: Path, heartbeat: Heartbeat) -> None:
    """Write a rank's heartbeat atomically to its file."""
    # Synchronising with a busy disk would look like a rank that has stopped.
    with new_file(_path(folder, heartbeat.rank), sync=False) as temporary:
        temporary.write_text(json.dumps(asdict(heartbeat)), encoding="utf-8")


def read_heartbeats(folder: Path, num_ranks: int) -> list[Heartbeat | None]:
    """Read the last heartbeat of every rank; None if it is missing or not readable."""
    heartbeats: list[Heartbeat | None] = []
    for rank in range(num_ranks):
        try:
            content = json.loads(_path(folder, rank).read_text(encoding="utf-8"))
            heartbeats.append(Heartbeat(**content))
        except (OSError, ValueError, TypeError):
            heartbeats.append(None)
    return heartbeats


def diagnose(
    heartbeats: Sequence[Heartbeat | None], now: float, silence_seconds: float
) -> list[str]:
    """Describe the ranks that block a run, the most suspicious first; empty if none stands out.

    A rank without heartbeats is dead or disconnected. Of the others, those that have completed the
    fewest batches block the run: the others wait for them in a collective.

    Examples:
        >>> heartbeat = Heartbeat(0, "a", 7, 5, 5, "training step", 100.0, 160.0)
        >>> diagnose([heartbeat, None], 165.0, 30.0)
        ['rank 1 has no heartbeat: it did not start, or writes to another folder']
    """
    said = []
    talking = []
    for rank, heartbeat in enumerate(heartbeats):
        if heartbeat is None:
            said.append(
                f"rank {rank} has no heartbeat: it did not start, or writes to another folder"
            )
        elif now - heartbeat.time > silence_seconds:
            said.append(
                f"{heartbeat.place} has been silent for {now - heartbeat.time:.0f} s: dead, frozen "
                f"or disconnected; last heartbeat: step {heartbeat.step}, {heartbeat.phase}"
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
