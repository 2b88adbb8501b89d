"""Keep a moving average of the weights, evaluate it and save it with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, final

from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from clipkit.optim import EmaWeights
from clipkit.training.checkpoints.contents import AVERAGE
from clipkit.training.lightning_compat import callbacks_of, is_accumulating
from clipkit.training.strategies.sharding import shard_like

_LOG: Final = logging.getLogger(__name__)


@final
class ExponentialMovingAverage(Callback):
    """Averages the encoder's weights exponentially; evaluation and prediction use the average.

    Checkpoints contain the weights under ``encoder.``, and their average under ``ema.``.

    Args:
        decay: Weight of the previous average at each optimizer step, below 1.

    Attributes:
        left_out: Set by ``StepGuard`` before each optimizer step: 1 on the device if the step is
            skipped, which leaves the average as it is.

    Examples:
        >>> trainer = Trainer(callbacks=[ExponentialMovingAverage(decay=0.999)])
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self.left_out: Float[Tensor, ""] | None = None
        self._average: EmaWeights | None = None
        self._num_updates = 0
        self._loaded: dict[str, Tensor] = {}
        self._swap = ExitStack()
        self._is_held = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a wrong decay before anything is read, and begin a new average in a fit."""
        EmaWeights(nn.Identity(), self.decay)
        if stage == "fit":
            self._average, self._num_updates, self._loaded = None, 0, {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with the weights, or the average of a checkpoint; weights are on the device now.

        Not earlier: strategies that shard read a checkpoint after ``on_fit_start``.
        """
        if self._average is None:
            self._start(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Update the average after every optimizer step."""
        if self._average is not None and not is_accumulating(trainer):
            self._average.update(_encoder(pl_module), self.left_out)
            self.left_out = None

    @contextmanager
    def swapped_into(self, pl_module: LightningModule) -> Iterator[None]:
        """Load the average into the encoder inside the block, if there is one."""
        if self._average is None and self._loaded:
            self._start(pl_module)
        if self._average is None or self._is_held:
            yield
            return
        self._is_held = True
        try:
            with self._average.swapped_into(_encoder(pl_module)):
                yield
        finally:
            self._is_held = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the average for measures and embeddings."""
        self._swap.enter_context(self.swapped_into(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue with the weights."""
        self._swap.close()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    @property
    def state_key(self) -> str:
        """Return the key in checkpoints: the name that the class had in version 0.1."""
        return "AverageWeights"

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates; the average is stored with the weights."""
        return {"num_updates": self._average.num_updates if self._average else self._num_updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of updates."""
        self._num_updates = int(state_dict["num_updates"])

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the average to the weights of the checkpoint, sharded as they are."""
        if self._average is not None:
            averages = {AVERAGE + name: value for name, value in self._average.weights.items()}
            checkpoint["state_dict"].update(averages)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the average of a checkpoint until the weights are on the device."""
        self._loaded = dict(checkpoint.get(AVERAGE, {}))

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Restore the averaged weights of a checkpoint; the number of updates stays.

        Args:
            weights: Averages by the names of the weights, complete or sharded like the average.
        """
        assert self._average is not None, "a fit has begun"
        self._load(self._average, weights, self._average.num_updates)

    def _start(self, pl_module: LightningModule) -> None:
        self._average = EmaWeights(_encoder(pl_module), self.decay)
        if self._loaded:
            self._load(self._average, self._loaded, self._num_updates)
            self._loaded = {}

    def _load(self, average: EmaWeights, weights: Mapping[str, Tensor], num_updates: int) -> None:
        weights = shard_like(average.weights, weights)
        average.load_state_dict({"num_updates": num_updates, "weights": weights})


def warn_of_unused_average(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Log that a checkpoint's average is not used, because the callback is missing."""
    if checkpoint.get(AVERAGE) and not callbacks_of(trainer, ExponentialMovingAverage):
        _LOG.warning(
            "ckpt_path: using the raw weights; the checkpoint's average of the weights needs the "
            "callback ExponentialMovingAverage"
        )


@contextmanager
def average_in_place(trainer: Trainer) -> Iterator[None]:
    """Load the average into the encoder of a run inside the block, if there is one."""
    with ExitStack() as stack:
        for callback in callbacks_of(trainer, ExponentialMovingAverage):
            stack.enter_context(callback.swapped_into(trainer.lightning_module))
        yield


def _encoder(pl_module: LightningModule) -> nn.Module:
    encoder = pl_module.encoder
    assert isinstance(encoder, nn.Module)
    return encoder
