"""Use one W&B run for a run, also if it is resumed."""

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
    """Set the W&B id of a run: the stored one if the run resumes, otherwise a new one.

    The id is stored next to the configuration, not in it, so that another run with the same
    ``config.yaml`` is another run on W&B. It is not set in the environment, where W&B would use it
    for all later runs of the process. An id in the configuration or in ``WANDB_RUN_ID`` is kept.
    """
    without_id = [x for x in loggers if isinstance(x, WandbLogger) and x.version is None]
    if not without_id or "WANDB_RUN_ID" in os.environ:
        return
    path = Path(folder) / FILE
    if resumes and path.is_file():
        chosen = path.read_text(encoding="utf-8").strip()
    else:
        chosen = secrets.token_hex(4)
        if current_world().is_main:
            write_text(path, f"{chosen}\n")
    for logger in without_id:
        set_wandb_id(logger, chosen)
