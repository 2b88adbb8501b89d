"""Pass configuration and environment to every logger."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Final, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.suggestions import one_line
from clipkit.training.loggers.environment import environment_of
from clipkit.training.progress.run_progress import pair_data

_LOG: Final = logging.getLogger(__name__)


@final
class LogRun(Callback):
    """Passes the resolved configuration and the environment to the loggers of a fit.

    ``ContrastiveModule`` adds this callback. Each logger receives the sections of
    ``ContrastiveModule.run_config`` as they are, ``environment`` (see ``Environment``), and, if the
    training data have masks, ``masks``: the fingerprint of each by its file. A resumed run passes
    them again. A logger that refuses them does not end the run: MLflow, for
    example, refuses other values for a run that has some.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pass them on rank 0, before Lightning lets the loggers write theirs."""
        if not trainer.is_global_zero or not trainer.loggers:
            return
        config = getattr(pl_module, "run_config", {})
        params = {**config, "environment": asdict(environment_of(trainer))}
        data = pair_data(trainer)
        if data is not None and data.train_stream.masks:
            params["masks"] = {mask.name: mask.fingerprint for mask in data.train_stream.masks}
        for logger in trainer.loggers:
            try:
                logger.log_hyperparams(params)
            except Exception as error:  # of any class: each service has its own
                _LOG.warning(
                    "%s: did not accept the configuration of the run: %s",
                    type(logger).__name__, one_line(str(error)),
                )  # fmt: skip
