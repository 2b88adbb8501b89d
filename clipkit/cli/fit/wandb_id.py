"""One W&B run for one run, however often it is started again."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger

from clipkit.atomic_files import write_text
from clipkit.distributed.world import current_world
from clipkit.training.lightning_compat import set_wandb_id

FILE: Final = "wandb_id.txt"


def choose_id(loggers: Sequence[Logger], folder: str, resumes: bool) -> None:
    """Have W&B go on under the id that the run's folder holds, or begin a new one and keep it.

    The id lies beside the configuration, not in it: another run from the same ``config.yaml`` is
    another run on W&B too. Nor is it put into the environment, which W&B reads once a process,
    for all runs to come. An id of the configuration's, or in ``WANDB_RUN_ID``, is left as it is.

    Args:
        loggers: The run's; only those of W&B that have no id yet are touched.
        folder: The run's.
        resumes: Whether the run goes on from a checkpoint.
    """
    nameless = [one for one in loggers if isinstance(one, WandbLogger) and one.version is None]
    if not nameless or "WANDB_RUN_ID" in os.environ:
        return
    path = Path(folder) / FILE
    if resumes and path.is_file():
        chosen = path.read_text(encoding="utf-8").strip()
    else:
        chosen = secrets.token_hex(4)
        if current_world().is_main:
            write_text(path, f"{chosen}\n")
    for logger in nameless:
        set_wandb_id(logger, chosen)
