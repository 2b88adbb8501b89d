"""Skip and log steps that would damage a run, and roll back if they persist."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from clipkit.errors import ConfigError, NonFiniteError, check_at_least
from clipkit.line_log import BufferedLineLog
from clipkit.training.callbacks.follow_teachers import FollowTeachers
from clipkit.training.callbacks.moving_average import ExponentialMovingAverage
from clipkit.training.callbacks.rollback import restore_weights
from clipkit.training.callbacks.save_checkpoint import SaveCheckpoint, newest_checkpoint
from clipkit.training.health.step_health import StepHealth, skip_if, skips_on_device, unscale_once
from clipkit.training.health.step_state import StepState
from clipkit.training.lightning_compat import callbacks_of, set_skip
from clipkit.training.strategies.sharding import gradient_norm
from clipkit.types import Batch

_LOG: Final = logging.getLogger(__name__)
_LAG_STEPS: Final = 2
"""Steps after which a GPU's verdict is read: by then it is computed, so that no rank waits."""


@final
class StepGuard(Callback):
    """Skips steps whose loss or gradients are NaN, infinite or a spike, on all ranks.

    A bad step changes no trained state: weights, moments, running statistics of batch norms,
    prototypes, the memory of a loss and averages of the weights stay as they were. It counts as
    a step for every schedule. Its keys are written to a file. After ``max_in_a_row`` bad steps the
    trained state is restored from the newest complete checkpoint, while data and schedules
    continue, so that the same batches are not repeated; a run that needs this more than
    ``max_rollbacks`` times ends.

    On a GPU no step waits for its verdict if the optimizer is one of torch's fused ones (``fused:
    true``) and the precision needs no scaler: the optimizer reads it on the device, and this
    callback two steps later. With other optimizers each step waits for its gradients. With
    16-mixed, the scaler handles infinite gradients, and only the loss is judged.

    Args:
        sigmas: Number of standard deviations above the mean of the last ``window`` good steps from
            which a loss or gradient norm is a spike; None to detect only NaN and infinity.
        window: Number of good steps to compare with.
        max_in_a_row: Number of consecutive bad steps after which the weights are restored.
        max_rollbacks: Largest number of restorations.
        path: File of the bad steps, with a JSON object per line and rank; None for
            ``bad_steps.jsonl`` in the run's folder.

    Raises:
        ConfigError: If a number is out of range.
        NonFiniteError: If restoring a checkpoint did not help or is not possible; in training.

    Examples:
        >>> trainer = Trainer(callbacks=[StepGuard(sigmas=6.0), SaveCheckpoint(every_n_steps=500)])
    """

    def __init__(
        self,
        sigmas: float | None = None,
        window: int = 128,
        max_in_a_row: int = 10,
        max_rollbacks: int = 3,
        path: str | None = None,
    ) -> None:
        check_at_least("StepGuard.window", window, 20)
        check_at_least("StepGuard.max_in_a_row", max_in_a_row, 1)
        check_at_least("StepGuard.max_rollbacks", max_rollbacks, 0)
        if sigmas is not None and sigmas <= 0:
            raise ConfigError(f"StepGuard.sigmas: expected more than 0, got {sigmas}")
        self.sigmas = math.inf if sigmas is None else sigmas
        self.window = window
        self.max_in_a_row = max_in_a_row
        self.max_rollbacks = max_rollbacks
        self.path = path
        self.num_bad = 0
        self._in_a_row = 0
        self._rollbacks = 0
        self._losses: list[Tensor] = []
        self._keys: list[str] = []
        self._pending: deque[_Step] = deque()
        self._health: StepHealth | None = None
        self._state: StepState | None = None
        self._log: BufferedLineLog | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a history of good steps, also in a resumed run."""
        self._health = StepHealth(pl_module.device, self.sigmas, self.window)
        self._state = StepState(pl_module)
        self._losses, self._keys = [], []
        self._pending.clear()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, *_: Any
    ) -> None:
        """Store the samples of the step, and the state before its first batch."""
        assert self._state is not None
        if not self._losses:
            self._state.keep()
        self._keys += batch.keys

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Store the loss; in a window of accumulated gradients, its share of the window's loss."""
        self._losses.append(loss.detach().float())

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Judge the step, and skip it everywhere if it is bad."""
        assert self._health is not None
        assert self._state is not None
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        loss = torch.stack(self._losses).sum()
        if scaler is not None:
            loss = loss / scaler.get_scale()
            unscale_once(scaler, optimizer)  # the scaler needs a verdict also without gradients
        norm = gradient_norm(pl_module.parameters()) if scaler is None else loss
        verdict = self._health.verdict(loss, norm)
        skip_if(verdict, optimizer, skips_on_device(optimizer, scaler is not None))
        self._state.restore(verdict)
        for average in callbacks_of(trainer, ExponentialMovingAverage):
            average.left_out = verdict
        for teachers in callbacks_of(trainer, FollowTeachers):
            teachers.left_out = verdict
        figures = torch.stack([verdict, loss, norm.to(loss.dtype)])
        number = trainer.global_step + 1
        self._pending.append(_Step(number, self._keys, _Arriving(figures)))
        self._losses, self._keys = [], []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Read the verdicts that are available, the same ones on every rank."""
        for optimizer in trainer.optimizers:
            set_skip(optimizer, None)
        while len(self._pending) > _lag_on(pl_module.device):
            self._read(trainer, self._pending.popleft())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the last verdicts."""
        while self._pending:
            self._read(trainer, self._pending.popleft())

    def _read(self, trainer: Trainer, step: _Step) -> None:
        bad, loss, norm = step.figures.values()
        self._in_a_row = self._in_a_row + 1 if bad else 0
        for saver in callbacks_of(trainer, SaveCheckpoint):
            saver.held = self._in_a_row > 0
        if not bad:
            return
        self.num_bad += 1
        assert self._state is not None
        self._state.leave_out()
        path = Path(self.path or Path(trainer.default_root_dir) / "bad_steps.jsonl")
        if self._log is None:
            self._log = BufferedLineLog(path)
        self._log.append(_line(step, trainer.global_rank, loss, norm))
        if trainer.is_global_zero:
            _LOG.warning(
                "skipping step %d: loss %g, gradient norm %g; its keys are in %s",
                step.number, loss, norm, path,
            )  # fmt: skip
        if self._in_a_row >= self.max_in_a_row:
            self._roll_back(trainer, step, f"loss {loss:g}, gradient norm {norm:g}")

    def _roll_back(self, trainer: Trainer, step: _Step, figures: str) -> None:
        for saver in callbacks_of(trainer, SaveCheckpoint):
            saver.settle(trainer)
        path = newest_checkpoint(trainer)
        if self._rollbacks >= self.max_rollbacks or path is None:
            tried = (
                f"restoring a checkpoint {self._rollbacks} times did not help"
                if path is not None
                else "there is no checkpoint to restore (SaveCheckpoint.every_n_steps)"
            )
            raise NonFiniteError(
                f"step {step.number}: {self.max_in_a_row} bad steps in a row, the last with "
                f"{figures}; {tried}; lower the learning rate, use a safer precision "
                f"(bf16-mixed, 32-true), or check the batches in bad_steps.jsonl"
            )
        self._rollbacks += 1
        self._in_a_row = 0
        self._pending.clear()
        saved_step = restore_weights(trainer, path)
        _LOG.warning(
            "step %d: %d bad steps in a row; restored weights and optimizer from step %d (%s), "
            "the data continue", step.number, self.max_in_a_row, saved_step, path,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Step:
    number: int
    keys: list[str]
    figures: _Arriving


@final
class _Arriving:
    """Numbers in transfer from the device to the CPU."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._host = values.detach().clone()

    def values(self) -> list[float]:
        """Return the numbers as soon as they are available."""
        if self._event is not None and not self._event.query():  # type: ignore[no-untyped-call]
            self._event.synchronize()  # the device is two steps behind
        return [float(value) for value in self._host.tolist()]


def _lag_on(device: torch.device) -> int:
    """Return the number of steps after which a verdict is read."""
    return 0 if device.type == "cpu" else _LAG_STEPS


def _line(step: _Step, rank: int, loss: float, norm: float) -> str:
    entry = {
        "step": step.number,
        "rank": rank,
        "loss": str(loss) if not math.isfinite(loss) else loss,  # JSON has no NaN
        "gradient_norm": str(norm) if not math.isfinite(norm) else norm,
        "keys": step.keys,
    }
    return json.dumps(entry) + "\n"
