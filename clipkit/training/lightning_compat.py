"""Every private or untyped name of Lightning and torch that training depends on, in one place.

New versions may rename them without notice; ``tests/training/test_lightning_compat.py`` names each
one that is gone.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.callbacks.timer import Interval
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor, nn
from torch.amp.grad_scaler import OptState
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves

from clipkit.errors import check_choice
from clipkit.models import TowerEncoder

_Kind = TypeVar("_Kind")


def all_callbacks(trainer: Trainer) -> list[Callback]:
    """Return the trainer's own list of callbacks; a change of the list changes the trainer."""
    return cast("list[Callback]", trainer.callbacks)  # type: ignore[attr-defined]


def callbacks_of(trainer: Trainer, kind: type[_Kind]) -> list[_Kind]:
    """Return the trainer's callbacks of one class, in order."""
    return [callback for callback in all_callbacks(trainer) if isinstance(callback, kind)]


def data_of(trainer: Trainer) -> LightningDataModule | None:
    """Return the trainer's data module, or None before it has one."""
    return cast("LightningDataModule | None", trainer.datamodule)  # type: ignore[attr-defined]


def encoder_of(pl_module: LightningModule) -> TowerEncoder:
    """Return the encoder of a ``ContrastiveModule``; callbacks get it as any module."""
    encoder = pl_module.encoder
    assert isinstance(encoder, TowerEncoder), "this callback belongs to ContrastiveModule"
    return encoder


def logs_at(trainer: Trainer, step: int) -> bool:
    """Return whether an optimizer step, counted from 1, is one of ``log_every_n_steps``."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and step % every == 0


def is_accumulating(trainer: Trainer) -> bool:
    """Return whether the optimizer step of the present batch is still to come.

    True inside a window of accumulated gradients, except at its last batch.
    """
    return trainer.fit_loop._should_accumulate()


def set_checkpoint_io(trainer: Trainer, new: CheckpointIO) -> None:
    """Replace Lightning's default reader and writer of checkpoints, also inside a wrapper.

    A strategy that has a checkpoint plugin keeps it.
    """
    outer = trainer.strategy.checkpoint_io
    if type(outer) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = new
    elif isinstance(outer, _WrappingCheckpointIO) and type(outer.checkpoint_io) is (
        TorchCheckpointIO
    ):
        outer._checkpoint_io = new  # its setter takes the first one only


def resume_from(trainer: Trainer, choose: Callable[[], str | None]) -> None:
    """Let a function choose the checkpoint of a run when the ranks of the run are connected.

    Lightning takes a path before that, when ranks cannot agree on one yet.
    """
    connector = trainer._checkpoint_connector
    resume_start = connector.resume_start

    def resume(_: Any = None, weights_only: bool | None = None) -> None:
        connector.resume_start = resume_start  # type: ignore[method-assign]
        resume_start(choose(), weights_only)

    connector.resume_start = resume  # type: ignore[method-assign,assignment]


def set_epoch_length(trainer: Trainer, num_batches: int) -> None:
    """Set the number of batches of an epoch, which Lightning reads once per run."""
    loop = trainer.fit_loop
    assert loop._combined_loader is not None, "an epoch starts after the loaders are set up"
    loop.max_batches = num_batches
    loop._combined_loader.limits = [num_batches]
    if isinstance(trainer.val_check_interval, float):
        trainer.val_check_batch = max(1, int(num_batches * trainer.val_check_interval))


def rewrite_progress(fit_loop: dict[str, Any], epoch: int, done: int, steps_to_log: int) -> None:
    """Set a stored fit loop to ``done`` completed batches of epoch ``epoch``.

    The form is that of a checkpoint saved when a batch ended: everything but ``completed`` counts
    it, and Lightning adds the missing one to that and to the steps that it logs with.
    """
    started = epoch + (done > 0)
    for scope in ("total", "current"):
        fit_loop["epoch_progress"][scope].update(
            ready=started, started=started, processed=epoch, completed=epoch
        )
    batches = fit_loop["epoch_loop.batch_progress"]
    batches["is_last_batch"] = False
    batches["current"].update(ready=done, started=done, processed=done, completed=done - 1)
    total = batches["total"]["processed"]
    batches["total"].update(ready=total, started=total, completed=total - 1)
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps_to_log


def disable_signal_handling(trainer: Trainer) -> None:
    """Turn off Lightning's requeueing under SLURM, which saves inside the signal's handler."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False


def disable_sigterm_broadcast(trainer: Trainer) -> None:
    """Turn off the broadcast on the device by which Lightning exchanges SIGTERM at every step."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def set_original_handlers(trainer: Trainer, handlers: Mapping[Any, Any]) -> None:
    """Set the signal handlers that Lightning restores when it ends."""
    trainer._signal_connector._original_handlers.update(handlers)


def set_wandb_id(logger: WandbLogger, run_id: str) -> None:
    """Set the id of a W&B run that has not started; the logger has no setter for it."""
    logger._wandb_init["id"] = logger._id = run_id


def hide_advertisements() -> None:
    """Drop the messages by which Lightning recommends products; all others stay."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    if _is_no_advertisement not in logger.filters:
        logger.addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in record.getMessage()


def uploads_models(logger: Logger) -> bool:
    """Return whether a logger of Lightning was given ``log_model``."""
    return bool(getattr(logger, "_log_model", False))


def is_scaled(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the gradients of this step still hold the factor of the loss scale."""
    return bool(scaler._per_optimizer_states[id(optimizer)]["stage"] is OptState.READY)


def can_skip_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer itself skips a step by a number on its device (found_inf).

    torch's fused optimizers do, so that ``torch.amp.GradScaler`` need not wait for the device.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def set_skip(optimizer: torch.optim.Optimizer, skip: Tensor | None) -> None:
    """Set the number that ``can_skip_on_device`` is about."""
    vars(optimizer).pop("found_inf", None)
    if skip is not None:
        optimizer.found_inf = skip  # type: ignore[attr-defined]


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module was compiled in place, by ``module.compile()``."""
    return getattr(module, "_compiled_call_impl", None) is not None


def undo_compile(module: nn.Module) -> None:
    """Undo ``module.compile()``, for which torch has no call."""
    module._compiled_call_impl = None


def disable_ddp_graph_splits() -> None:
    """Let compiled graphs be complete under DDP, which splits them at its gradient buckets."""
    import torch._dynamo

    torch._dynamo.config.optimize_ddp = False


def set_ddp_defaults(strategy: DDPStrategy, sends_buffers: bool) -> None:
    """Set arguments of torch's ``DistributedDataParallel`` that a strategy was not given."""
    given = strategy._ddp_kwargs
    given.setdefault("gradient_as_bucket_view", True)
    known = inspect.signature(DistributedDataParallel).parameters
    new_name, old_name = "forward_sync_buffers", "broadcast_buffers"  # before torch 2.14
    if not sends_buffers and new_name not in given and old_name not in given:
        given[new_name if new_name in known else old_name] = False


def check_time_per_epoch(timer: Timer) -> None:
    """Let a timer look at its limit at the ends of epochs only."""
    timer._interval = Interval.epoch


def timeout_of(strategy: Strategy) -> timedelta | None:
    """Return the timeout of a strategy's collectives; None for one that has none."""
    return getattr(strategy, "_timeout", None)


def resharding_of(module: nn.Module) -> Any:
    """Return over which ranks FSDP2 shards a module's weights between forward and backward pass.

    ``FSDPModule.set_reshard_after_forward`` sets all of them or none, but not a number of ranks.
    """
    return _only_group(module).post_forward_mesh_info


def set_resharding(module: nn.Module, ranks: Any) -> None:
    """Set what ``resharding_of`` returned."""
    _only_group(module).post_forward_mesh_info = ranks


def _only_group(module: nn.Module) -> Any:
    assert isinstance(module, FSDPModule)
    return module._get_fsdp_state()._fsdp_param_group


def records_cuda_graphs(mode: str | None, callback: str = "CompileTowers") -> bool:
    """Return whether a mode of ``torch.compile``'s default backend records CUDA graphs.

    Args:
        mode: Mode of ``torch.compile``; None for its default.
        callback: Name of the callback whose option it is.

    Raises:
        ConfigError: If the mode is unknown.
    """
    if mode is None:
        return False
    import torch._inductor

    modes = torch._inductor.list_mode_options()
    check_choice(f"{callback}.mode", mode, modes)
    return bool(modes[mode].get("triton.cudagraphs"))


def graph_errors() -> tuple[type[Exception], ...]:
    """Return the errors with which ``torch.compile`` refuses to make one graph."""
    import torch._dynamo.exc as errors

    return errors.Unsupported, errors.TorchRuntimeError


def product_operators() -> list[Any]:
    """Return the operators that take most of a block's time, for selective checkpointing."""
    aten = torch.ops.aten
    names = (
        aten.mm, aten.addmm, aten._scaled_mm, aten.convolution,
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_cudnn_attention,
    )  # fmt: skip
    return [name.default for name in names]


def start_memory_record(max_entries: int) -> None:
    """Record every allocation of GPU memory, with the code that made it."""
    torch.cuda.memory._record_memory_history(max_entries=max_entries)


def write_memory_record(path: Path) -> None:
    """Write the record of allocations, for https://pytorch.org/memory_viz; it continues."""
    torch.cuda.memory._dump_snapshot(str(path))  # type: ignore[no-untyped-call]


def stop_memory_record() -> None:
    """End the record of allocations."""
    torch.cuda.memory._record_memory_history(enabled=None)
