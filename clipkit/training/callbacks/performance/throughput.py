"""Log the speed of a run, the time that it waits for data, and the use of the device."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from typing import Any, Final, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.losses import CombinedLoss
from clipkit.losses.term import FusedPasses
from clipkit.models.flops import EncoderFlops
from clipkit.training.callbacks.towers.block_wrappers import without_recomputing
from clipkit.training.callbacks.towers.float8_training import without_float8
from clipkit.training.lightning_compat import encoder_of, is_accumulating, logs_at
from clipkit.types import Batch

_LOG = logging.getLogger(__name__)
_PEAK_TFLOPS: Final = {
    "A100": 312.0, "A30": 165.0, "A10": 125.0, "L40S": 362.0, "L4": 121.0, "H100 PCIe": 756.0,
    "H100 NVL": 835.0, "H100": 989.0, "H200 NVL": 835.0, "H200": 989.0, "B200": 2250.0,
    "MI300X": 1307.0,
}  # fmt: skip
"""Dense bf16 products per second, in 10^12 operations, from the data sheets of the cards."""
_HALF: Final = ("bf16-mixed", "16-mixed", "bf16-true", "16-true")


@final
class Throughput(Callback):
    """Logs samples per second of all ranks and the share of time spent waiting for data.

    Both are averages since the last log, without validation. On a GPU both are measured by its
    clock: the CPU queues work in advance, so its waiting times are not those of the GPU. Waiting
    is then the time in which the GPU has no step to compute.

    On a GPU, the operations of the towers (``EncoderFlops``), and of what terms run of a joint
    encoder in addition (``LossTerm.passes``), are counted before the first step and logged as
    ``throughput/tflops_per_second``, 10^12 operations per second and device, with
    ``throughput/mfu``, their share of the peak. Operations of activations that are computed again
    and those of a teacher are not counted; those in float8 count as any other. Images of any shape
    (NaFlex) are not supported: nothing is logged for them.

    Args:
        peak_tflops: Peak of the device in 10^12 operations per second; None for the dense bf16 peak
            of a known GPU in a run of half precision.

    Examples:
        >>> trainer = Trainer(callbacks=[Throughput()])
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        self.peak_tflops = peak_tflops
        self._clock = _Clock()
        self._samples = 0
        self._operations = 0.0
        self._flops: EncoderFlops | None = None
        self._fused: list[FusedPasses] = []
        self._peak: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the model without its weights, before it is sharded."""
        is_wanted = trainer.strategy.root_device.type == "cuda" or self.peak_tflops is not None
        if stage == "fit" and is_wanted and encoder_of(pl_module).image_tower.budget is None:
            encoder = encoder_of(pl_module)
            with without_recomputing(encoder), without_float8(encoder):
                self._flops = EncoderFlops(encoder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the clock of the device, and count the operations of a full batch."""
        self._clock = _DeviceClock() if pl_module.device.type == "cuda" else _Clock()
        self._peak = self.peak_tflops or _known_peak(trainer, pl_module.device)
        assert isinstance(pl_module.loss, CombinedLoss)
        self._fused = [term.passes for term in pl_module.loss.fused_terms]
        if self._flops is None:
            return
        encoder = encoder_of(pl_module)
        if not self._flops.follow(encoder):
            _LOG.warning(
                "Throughput logs no operations: a callback after it changed the parameters of the "
                "model; list Throughput last in trainer.callbacks"
            )
            self._flops = None
            return
        self._flops.image(encoder.image_tower.image_size)
        self._flops.text(encoder.text_tower.context_length)
        for name in encoder.towers:
            self._flops.signal(name)
        if self._fused:
            length = encoder.text_tower.context_length if "text" in encoder.towers else 1
            self._flops.fusion(encoder.image_tower.image_size, length)
            self._flops.word()

    def on_train_batch_start(self, *_: Any) -> None:
        """End the wait for this batch."""
        self._clock.begin_step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """End the step, and begin the wait for the next batch."""
        self._clock.end_step()
        self._samples += len(batch) * trainer.world_size
        if self._flops is not None:
            self._operations += _operations(self._flops, batch, self._fused)
        if not is_accumulating(trainer) and logs_at(trainer, trainer.global_step):
            self._log(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the time of validation."""
        self._clock.begin_wait()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Include the wait for the first batch, in which workers start."""
        self._clock.begin_wait()

    def _log(self, pl_module: LightningModule) -> None:
        waited, worked = self._clock.take_seconds()
        total = waited + worked
        values = {
            "throughput/samples_per_second": self._samples / total,
            "throughput/data_wait_share": waited / total,
        }
        if self._flops is not None:
            rate = self._operations / total / 1e12
            values["throughput/tflops_per_second"] = rate
            if self._peak is not None:
                values["throughput/mfu"] = rate / self._peak
            self._flops.follow(encoder_of(pl_module))  # towers may have been unlocked
        pl_module.log_dict(values, batch_size=1)
        self._samples, self._operations = 0, 0.0


def _operations(flops: EncoderFlops, batch: Batch, fused: Sequence[FusedPasses] = ()) -> float:
    """Return the operations of the towers for a batch of one rank, and of terms over the fusion.

    The words that are predicted are counted by their share of all tokens, of which padding is none.
    """
    total = len(batch.images) * flops.image(batch.images.shape[-1])
    if batch.tokens is not None:
        total += len(batch.tokens) * flops.text(batch.tokens.shape[1])
    negatives = batch.negatives
    if negatives is not None and negatives.images is not None:
        total += len(negatives.images) * flops.image(negatives.images.shape[-1])
    if negatives is not None and negatives.tokens is not None:
        total += len(negatives.tokens) * flops.text(negatives.tokens.shape[1])
    for name, given in (batch.modalities or {}).items():
        num_present = len(given.present) if given.num_present is None else given.num_present
        total += num_present * flops.signal(name)
    length = 0 if batch.tokens is None else batch.tokens.shape[1]
    for passes in fused:
        one = passes.fusions * flops.fusion(batch.images.shape[-1], length)
        one += passes.texts * flops.text(length) + passes.words * length * flops.word()
        total += len(batch) * one
    return total


def _known_peak(trainer: Trainer, device: torch.device) -> float | None:
    """Return the peak of a GPU in half precision, if it is known."""
    if device.type != "cuda" or str(trainer.precision) not in _HALF:
        return None
    card = torch.cuda.get_device_name(device)
    return next(
        (peak for name, peak in _PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", card)), None
    )


class _Clock:
    """Measures the duration of steps and of the waits between them."""

    def __init__(self) -> None:
        self._mark: Any = None
        self._waits: list[tuple[Any, Any]] = []
        self._steps: list[tuple[Any, Any]] = []

    def begin_wait(self) -> None:
        """Discard the time since the last step, and begin a wait."""
        self._mark = self._now()

    def begin_step(self) -> None:
        """End a wait, if one has begun."""
        self._end(self._waits)

    def end_step(self) -> None:
        """End a step and begin a wait."""
        self._end(self._steps)

    def take_seconds(self) -> tuple[float, float]:
        """Return the seconds of waits and of steps since the last call."""
        waited, worked = (
            sum(self._seconds(*span) for span in spans) for spans in (self._waits, self._steps)
        )
        self._waits, self._steps = [], []
        return waited, worked

    def _end(self, spans: list[tuple[Any, Any]]) -> None:
        now = self._now()
        if self._mark is not None:
            spans.append((self._mark, now))
        self._mark = now

    def _now(self) -> Any:
        return time.perf_counter()

    def _seconds(self, start: Any, end: Any) -> float:
        return float(end - start)


class _DeviceClock(_Clock):
    """Uses events in the GPU's queue; their times are read once per log."""

    def _now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000
