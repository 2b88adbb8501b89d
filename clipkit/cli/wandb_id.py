"""One W&B run for one run, however often it is started again."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from clipkit.distributed.world import current_world

FILE: Final = "wandb_id.txt"
_VARIABLE: Final = "WANDB_RUN_ID"


def choose_id(folder: str, resumes: bool) -> None:
    """Have W&B go on under the id that the run's folder holds, or begin a new one and keep it.

    The id lies beside the configuration, not in it: another run from the same ``config.yaml`` is
    another run on W&B too. An id of the environment's (``WANDB_RUN_ID``) is left as it is.

    Args:
        folder: The run's.
        resumes: Whether the run goes on from a checkpoint.
    """
    if _VARIABLE in os.environ:
        return
    path = Path(folder) / FILE
    if resumes and path.is_file():
        os.environ[_VARIABLE] = path.read_text(encoding="utf-8").strip()
        return
    os.environ[_VARIABLE] = secrets.token_hex(4)
    if current_world().is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{FILE}.{os.getpid()}")
        beside.write_text(os.environ[_VARIABLE] + "\n", encoding="utf-8")
        beside.replace(path)


@contextmanager
def own_id() -> Iterator[None]:
    """Leave no id behind for a later run of this process."""
    given = _VARIABLE in os.environ
    try:
        yield
    finally:
        if not given:
            os.environ.pop(_VARIABLE, None)
