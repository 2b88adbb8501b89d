"""Jobs for Ray whose tasks end their process, or fail."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any, final

from clipkit.distributed.ray_actors import RayJob, Task


@final
@dataclass(frozen=True)
class BadJob(RayJob):
    """Returns the numbers of tasks, except of those that kill their process or fail."""

    killers: tuple[int, ...] = ()
    failing: tuple[int, ...] = ()

    def prepare(self) -> Task:
        """See ``RayJob.prepare``."""

        def task(number: int) -> dict[str, Any]:
            if number in self.killers:
                os.kill(os.getpid(), signal.SIGKILL)
            if number in self.failing:
                raise RuntimeError("CUDA out of memory\nin a layer")
            return {"done": number}

        return task
