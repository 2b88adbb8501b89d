"""What became of the data, in the logs."""

from __future__ import annotations

from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.training.datamodule.pair_datamodule import PairDataModule
from clipkit.training.lightning_compat import data_of, is_accumulating, logs_at


@final
class DataCounters(Callback):
    """Logs what was bad, padded or dropped, and the samples of each mixed source.

    ``ContrastiveModule`` brings this callback along, so that nothing is left out in silence. The
    names are ``data/bad_samples``, ``data/bad_shards``, ``data/padded``, ``data/dropped`` and, for
    mixtures, ``data/samples/NAME``; see ``PairStream.counters``. All count from the beginning of a
    run, whatever interrupted it. What other ranks found bad is in them from the next checkpoint on.
    """

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Log the counters of the stream where the trainer logs."""
        data = data_of(trainer)
        if not isinstance(data, PairDataModule) or is_accumulating(trainer):
            return
        if logs_at(trainer, trainer.global_step):
            counters = data.train_stream.counters()
            pl_module.log_dict(
                {f"data/{name}": float(count) for name, count in counters.items()}, batch_size=1
            )
