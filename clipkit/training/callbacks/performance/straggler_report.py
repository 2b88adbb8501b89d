"""Name the ranks for which the others wait at every step."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any, Final, final

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.hooks import RemovableHandle

from clipkit.distributed.background import BackgroundGroup, background_group
from clipkit.distributed.collectives import exchange_device, world_size
from clipkit.distributed.texts import gather_texts
from clipkit.errors import ConfigError
from clipkit.training.health.stragglers import OwnTime, describe_stragglers, typical_seconds
from clipkit.training.lightning_compat import encoder_of, is_accumulating

_LOG: Final = logging.getLogger(__name__)
_LEAST_SECONDS: Final = 0.01
_SHOWN_RANKS: Final = 3


@final
class StragglerReport(Callback):
    """Compares the ranks' own times of a step, and names those that are slower than the others.

    All ranks take equally long for a step, because they wait for each other in its collectives.
    This callback measures what a rank does alone: waiting for its loader, and the forward pass of
    the towers (on a GPU by events in its queue, which nothing waits for). Every ``every_n_steps``
    steps the means are exchanged in the background and logged as ``ranks/slowest_seconds`` and
    ``ranks/median_seconds``. Rank 0 warns about ranks that need more than ``slow_ratio`` times the
    median: a GPU that throttles, a slow disk, a machine with other work.

    Weights that are sharded are gathered in the forward pass, in which ranks wait for each other;
    then only the waiting for data tells ranks apart.

    Args:
        every_n_steps: Number of optimizer steps between two exchanges.
        slow_ratio: How many times the median the own time of a slow rank is.

    Raises:
        ConfigError: If ``every_n_steps`` is less than 1, or ``slow_ratio`` not above 1.

    Examples:
        >>> trainer = Trainer(callbacks=[StragglerReport(every_n_steps=500)])
    """

    def __init__(self, every_n_steps: int = 100, slow_ratio: float = 1.2) -> None:
        if every_n_steps < 1 or not slow_ratio > 1:
            raise ConfigError(
                f"StragglerReport: expected every_n_steps >= 1 and slow_ratio > 1, got "
                f"{every_n_steps} and {slow_ratio}"
            )
        self.every_n_steps = every_n_steps
        self.slow_ratio = slow_ratio
        self._hosts: list[str] = []
        self._timer: _Timer | None = None
        self._background: BackgroundGroup | None = None
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure; with one rank there is nothing to compare."""
        if world_size() == 1:
            return
        ones = [1] * world_size()
        self._hosts = list(gather_texts([socket.gethostname()], ones, exchange_device()))
        self._background = background_group()
        self._timer = _Timer(encoder_of(pl_module), pl_module.device.type == "cuda")

    def on_train_epoch_start(self, *_: Any) -> None:
        """Leave out the start of the workers."""
        if self._timer is not None:
            self._timer.begin_wait(is_first=True)

    def on_validation_end(self, *_: Any) -> None:
        """Leave out validation."""
        self.on_train_epoch_start()

    def on_train_batch_start(self, *_: Any) -> None:
        """End the wait for this batch."""
        if self._timer is not None:
            self._timer.end_wait()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Report the last exchange, and start the next one."""
        if self._timer is None:
            return
        if self._pending is not None:
            self._report(pl_module)
        if not is_accumulating(trainer) and trainer.global_step % self.every_n_steps == 0:
            self._exchange(self._timer.take())
        self._timer.begin_wait()

    def on_train_end(self, *_: Any) -> None:
        """Stop measuring."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None
        if self._timer is not None:
            self._timer.remove()
            self._timer = None

    def on_exception(self, *_: Any) -> None:
        """Stop measuring, without waiting for a rank that may be lost."""
        self._pending = None
        self.on_train_end()

    def _exchange(self, own: OwnTime) -> None:
        assert self._background is not None
        device, group = self._background.device, self._background.group
        # The sum of rows of zeros and one's own row is a gathering that gloo and NCCL both have.
        everyone = torch.zeros(world_size(), 2, dtype=torch.float64)
        everyone[dist.get_rank()] = torch.tensor([own.data, own.towers], dtype=torch.float64)
        everyone = everyone.to(device)
        work = dist.all_reduce(everyone, group=group, async_op=True)
        assert work is not None
        self._pending = (work, everyone)

    def _report(self, pl_module: LightningModule) -> None:
        assert self._pending is not None
        work, everyone = self._pending
        self._pending = None
        work.wait()
        times = [OwnTime(*row) for row in everyone.tolist()]
        values = {
            "ranks/slowest_seconds": max(each.total for each in times),
            "ranks/median_seconds": typical_seconds(times),
        }
        pl_module.log_dict(values, batch_size=1)
        slow = describe_stragglers(times, self._hosts, self.slow_ratio, _LEAST_SECONDS)
        if slow and dist.get_rank() == 0:
            more = f", and {len(slow) - _SHOWN_RANKS} more" if len(slow) > _SHOWN_RANKS else ""
            _LOG.warning("the others wait for %s%s", "; ".join(slow[:_SHOWN_RANKS]), more)


@final
class _Timer:
    """Adds up the waits for data, and the time of the encoder's forward passes."""

    def __init__(self, encoder: nn.Module, is_cuda: bool) -> None:
        self._is_cuda = is_cuda
        self._handles: list[RemovableHandle] = [
            encoder.register_forward_pre_hook(self._enter),
            encoder.register_forward_hook(self._leave),
        ]
        self._wait_start: float | None = None
        self._waited, self._num_steps = 0.0, 0
        self._entered: Any = None
        self._passes: list[tuple[Any, Any]] = []

    def begin_wait(self, is_first: bool = False) -> None:
        """Begin to wait for a batch; the wait for the first one is not counted."""
        self._wait_start = None if is_first else time.perf_counter()

    def end_wait(self) -> None:
        """End the wait, and count a step."""
        if self._wait_start is not None:
            self._waited += time.perf_counter() - self._wait_start
        self._num_steps += 1

    def take(self) -> OwnTime:
        """Return the means since the last call; passes that a GPU still computes count later."""
        seconds, done = 0.0, 0
        for start, end in self._passes:
            if self._is_cuda and not end.query():
                break
            seconds += start.elapsed_time(end) / 1000 if self._is_cuda else end - start
            done += 1
        self._passes = self._passes[done:]
        steps = max(1, self._num_steps)
        own = OwnTime(self._waited / steps, seconds / steps)
        self._waited, self._num_steps = 0.0, 0
        return own

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, *_: Any) -> None:
        if torch.is_grad_enabled():  # not in a validation
            self._entered = self._now()

    def _leave(self, *_: Any) -> None:
        if self._entered is not None:
            self._passes.append((self._entered, self._now()))
            self._entered = None

    def _now(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
