"""Checkpoints that loggers upload."""

from __future__ import annotations

import logging
from typing import Any, Final

from lightning.pytorch import Trainer

from clipkit.addresses import is_local
from clipkit.suggestions import one_line
from clipkit.training.lightning_compat import uploads_models

_LOG: Final = logging.getLogger(__name__)


def tell_loggers(trainer: Trainer, saver: Any) -> None:
    """Let loggers upload new checkpoints; an upload that fails does not end the run.

    Args:
        trainer: The trainer of the run.
        saver: Callback with the attributes of Lightning's ``ModelCheckpoint`` that loggers read.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        try:
            logger.after_save_checkpoint(saver)
        except Exception as error:  # of any class: each service has its own
            reason = one_line(str(error)) or type(error).__name__
            _LOG.error("%s: checkpoint not uploaded: %s", type(logger).__name__, reason)


def warn_of_uploads(trainer: Trainer, folder: str, is_sharded: bool) -> None:
    """Name the loggers with ``log_model`` that will upload nothing.

    Args:
        trainer: The trainer of the run.
        folder: Folder or URL of the checkpoints.
        is_sharded: Whether a checkpoint is a folder with a file for each rank.
    """
    if not trainer.is_global_zero or (is_local(folder) and not is_sharded):
        return
    for logger in filter(uploads_models, trainer.loggers):
        _LOG.warning(
            "%s.log_model: expected checkpoints that are files of this machine, got %s; "
            "none is uploaded",
            type(logger).__name__, "folders of shards" if is_sharded else folder,
        )  # fmt: skip
