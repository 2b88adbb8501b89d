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
class Beat:
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


def write_beat(folder: Path, beat: Beat) -> None:
    """Put a rank's beat into its file, whole."""
    # Waiting for a busy disk would look like a rank that has stopped.
    with new_file(_path(folder, beat.rank), sync=False) as temporary:
        temporary.write_text(json.dumps(asdict(beat)), encoding="utf-8")


def read_beats(folder: Path, num_ranks: int) -> list[Beat | None]:
    """The last beat of every rank; None where there is none that can be read."""
    beats: list[Beat | None] = []
    for rank in range(num_ranks):
        try:
            beats.append(Beat(**json.loads(_path(folder, rank).read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            beats.append(None)
    return beats


def diagnose(beats: Sequence[Beat | None], now: float, silence_seconds: float) -> list[str]:
    """Who keeps a run waiting, the most suspicious first; empty where nobody stands out.

    A rank that says nothing is dead, or cut off. Of those that talk, the ones that have finished
    the fewest batches are waited for: the others stand in an exchange with them.

    Args:
        beats: The last of every rank, by rank.
        now: Seconds of the clock that the beats are compared with.
        silence_seconds: After which a rank counts as silent.

    Returns:
        Sentences.

    Examples:
        >>> beat = Beat(0, "a", 7, 5, 5, "training step", 100.0, 160.0)
        >>> diagnose([beat, None], 165.0, 30.0)
        ['rank 1 has never been heard of: it did not start, or it writes elsewhere']
    """
    said = []
    talking = []
    for rank, beat in enumerate(beats):
        if beat is None:
            said.append(
                f"rank {rank} has never been heard of: it did not start, or it writes elsewhere"
            )
        elif now - beat.time > silence_seconds:
            said.append(
                f"{beat.place} has been silent for {now - beat.time:.0f} s: dead, frozen or cut "
                f"off; its last words: step {beat.step}, {beat.phase}"
            )
        else:
            talking.append(beat)
    last = min((beat.batch for beat in talking), default=0)
    behind = [beat for beat in talking if beat.batch == last]
    phases = {beat.phase for beat in talking}
    if len(behind) < len(talking) or len(phases) > 1:
        if len(behind) == len(talking):  # the same batch: those that are not inside the step
            behind = [beat for beat in talking if beat.phase != STEP] or behind
        said += [
            f"{beat.place} is behind: step {beat.step}, {beat.phase} for "
            f"{now - beat.phase_since:.0f} s"
            for beat in behind
        ]
    return said


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.json"
