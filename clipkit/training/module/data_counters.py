"""Log counters of the data."""

from __future__ import annotations

from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.patches import padding_share
from clipkit.training.lightning_compat import is_accumulating, logs_at
from clipkit.training.progress.run_progress import pair_data
from clipkit.types import Batch


@final
class DataCounters(Callback):
    """Logs the numbers of bad, padded and dropped samples, and the samples of each mixed source.

    With images of any shape, also ``data/padding``: the share of this batch's patches that is
    padding.

    ``ContrastiveModule`` adds this callback, so that no sample is skipped silently. The
    names are ``data/bad_samples``, ``data/bad_shards``, ``data/padded``, ``data/dropped`` and, for
    mixtures, ``data/samples/NAME``; see ``PairStream.counters``. All count from the first start
    of a run, through interruptions. Bad samples of other ranks are included from the next
    checkpoint on.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the counters of the stream at the steps at which the trainer logs."""
        data = pair_data(trainer)
        if data is None or is_accumulating(trainer):
            return
        if logs_at(trainer, trainer.global_step):
            counters = data.train_stream.counters()
            pl_module.log_dict(
                {f"data/{name}": float(count) for name, count in counters.items()}, batch_size=1
            )
            if isinstance(batch, Batch) and batch.grids is not None:
                share = padding_share(batch.grids, batch.images.shape[1])
                pl_module.log("data/padding", share, batch_size=1)
