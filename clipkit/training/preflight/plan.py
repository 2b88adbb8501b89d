"""Collect the numbers of a run before its first step."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from clipkit.data.order.partition import EpochPartition
from clipkit.data.text.tokenizers import tokenizer_from_name
from clipkit.errors import ClipkitError
from clipkit.losses.momentum_teacher import averaged_encoders
from clipkit.models import TowerEncoder
from clipkit.models.parameters import count_parameters
from clipkit.optim import Schedule
from clipkit.training.callbacks.moving_average import ExponentialMovingAverage
from clipkit.training.callbacks.save_checkpoint import SaveCheckpoint
from clipkit.training.datamodule.pair_datamodule import PairDataModule
from clipkit.training.lightning_compat import callbacks_of, is_compiled
from clipkit.training.module.contrastive_module import ContrastiveModule
from clipkit.training.module.unread_towers import reads_captions
from clipkit.training.preflight.fused_memory import fused_activation_bytes
from clipkit.training.preflight.loader import loader_notes, make_loader_plan
from clipkit.training.preflight.memory import (
    activation_bytes,
    exchange_estimate,
    input_bytes,
    memory_estimate,
    weight_bytes,
)
from clipkit.training.preflight.options import check_precision, check_windows, unused_options
from clipkit.training.preflight.run_plan import (
    CaptionPlan,
    DataPlan,
    DevicePlan,
    LengthPlan,
    MemoryPlan,
    RunPlan,
)
from clipkit.training.progress.epoch_steps import steps_for
from clipkit.training.progress.run_progress import (
    local_progress,
    samples_of_step,
    time_budget,
    total_steps,
)
from clipkit.when import Progress

_WIDE: Final = 8
"""Factor of the context length with which captions are counted, to find truncated ones."""
_CLOCK_STEPS: Final = 10_000
"""Number of steps in the drawing of a run that only a time limit ends."""
_POINTS: Final = 64


def check_plan(trainer: Trainer, module: ContrastiveModule, data: PairDataModule) -> None:
    """Refuse a run that cannot work, on every rank."""
    options = module.run_config.get("trainer") or {}
    precision = str(options.get("precision") or trainer.precision)
    check_precision(precision, trainer.strategy.root_device)
    check_windows(data.batches_per_epoch, trainer.accumulate_grad_batches)
    module.schedule.check(local_progress(trainer))


def make_plan(
    trainer: Trainer, module: ContrastiveModule, data: PairDataModule, num_captions: int
) -> RunPlan:
    """Collect the numbers of a run whose trainer is about to start, on one rank only."""
    num_steps = total_steps(trainer)
    captions = _caption_plan(data, num_captions)
    rates = [options["lr"] for options in module.group_options]
    numbers = _data_plan(trainer, data)
    loader = make_loader_plan(
        input_bytes(module.encoder),
        _batch_sizes(data),
        data.num_workers,
        trainer.world_size // trainer.num_nodes,
    )
    return RunPlan(
        data=numbers,
        length=_length_plan(trainer, module, data, num_steps),
        device=DevicePlan(
            kind=str(trainer.strategy.root_device.type),
            precision=str(trainer.precision),
            strategy=type(trainer.strategy).__name__,
            num_nodes=trainer.num_nodes,
            float32_matmul_precision=torch.get_float32_matmul_precision(),
            cudnn_benchmark=torch.backends.cudnn.benchmark,
        ),
        memory=_memory_plan(trainer, module, data, captions.context_length),
        captions=captions,
        loader=loader,
        parameters=count_parameters(module.encoder),
        peak_rates=(min(rates), max(rates)),
        factors=schedule_factors(module.schedule, num_steps, module.step_counter.step_samples),
        unused=unused_options(module.run_config, _limits(trainer, _batches(data))),
        notes=[
            *_notes(trainer, module, numbers, captions, data.num_workers),
            *loader_notes(loader),
        ],
    )


def _batch_sizes(data: PairDataModule) -> list[int]:
    """Return the sizes of training and validation batches of a rank."""
    size = data.validation.batch_size
    return [data.batch_size, size or data.batch_size] if data.val else [data.batch_size]


def _batches(data: PairDataModule) -> int:
    """Return the number of full batches of all ranks in an epoch."""
    return data.train_stream.num_samples // data.train_stream.partition.step_samples


def _data_plan(trainer: Trainer, data: PairDataModule) -> DataPlan:
    stream = data.train_stream
    return DataPlan(
        num_samples=stream.num_samples,
        num_shards=stream.num_shards,
        is_exact=stream.is_exact,
        batch_size=data.batch_size,
        batch_size_stages=stream.partition.stages,
        world_size=trainer.world_size,
        accumulate=trainer.accumulate_grad_batches,
        dropped=stream.num_samples - _batches(data) * data.batch_size * trainer.world_size,
        masks=tuple(stream.masks),
    )


def _length_plan(
    trainer: Trainer, module: ContrastiveModule, data: PairDataModule, num_steps: float
) -> LengthPlan:
    return LengthPlan(
        steps_per_epoch=math.ceil(_batches(data) / trainer.accumulate_grad_batches),
        num_steps=num_steps,
        optimizer_steps=_optimizer_steps(trainer, data.train_stream.partition, num_steps),
        completed_steps=module.step_counter.steps_at(trainer.global_step),
        ends_by=_ends_by(trainer),
    )


def _memory_plan(
    trainer: Trainer, module: ContrastiveModule, data: PairDataModule, context_length: int
) -> MemoryPlan:
    activations = _activations(trainer, module, data.batch_size, context_length)
    return MemoryPlan(
        parts=memory_estimate(
            module.encoder,
            trainer.optimizers[0],
            data.batch_size,
            trainer.world_size,
            activations,
            _average_bytes(trainer, module),
        ),
        activations_known=activations is not None,
        communication=exchange_estimate(
            module.encoder, data.batch_size, trainer.world_size, trainer.accumulate_grad_batches
        ),
    )


def _caption_plan(data: PairDataModule, num_captions: int) -> CaptionPlan:
    tokenizer = wide = data.resolved_tokenizer()
    with suppress(ClipkitError):  # not every tokenizer has a longer context
        wide = tokenizer_from_name(tokenizer.name, _WIDE * tokenizer.context_length)
    captions = data.train_stream.read_captions(wide, num_captions)
    lengths = sorted(captions.lengths)
    return CaptionPlan(
        num_read=len(lengths),
        num_truncated=sum(length > tokenizer.context_length for length in lengths),
        num_joined=captions.num_joined,
        median_tokens=lengths[len(lengths) // 2] if lengths else 0,
        context_length=tokenizer.context_length,
    )


def _activations(
    trainer: Trainer, module: ContrastiveModule, batch_size: int, context_length: int
) -> int | None:
    """Estimate the bytes of a rank's activations; None if impossible before the first step."""
    # Sharded weights are gathered by all ranks together; one rank cannot run them.
    is_complete = isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy)
    # Only this rank runs this, and SyncBatchNorm would wait for the others inside its forward.
    waits = any(isinstance(part, nn.SyncBatchNorm) for part in module.encoder.modules())
    if not is_complete or waits or _is_compiled(module.encoder):
        return None
    held = min(module.micro_batch_size or batch_size, batch_size)
    with trainer.precision_plugin.forward_context():
        length = context_length if reads_captions(module.encoder, module.loss) else None
        per_pair = activation_bytes(module.encoder, length)
        terms = module.loss.fused_terms
        fused = fused_activation_bytes(module.encoder, terms, context_length, batch_size)
    return None if per_pair is None else held * per_pair + fused


def _average_bytes(trainer: Trainer, module: ContrastiveModule) -> int:
    """Return the bytes of all averages of the encoder's weights: for evaluation, and teachers."""
    averaged = averaged_encoders(module.loss)
    averaged += [module.encoder for _ in callbacks_of(trainer, ExponentialMovingAverage)]
    return sum(weight_bytes(encoder) for encoder in averaged)


def schedule_factors(
    schedule: Schedule, num_steps: float, step_samples: int | None = None, points: int = _POINTS
) -> list[float]:
    """Return the factors of the learning rate at evenly spaced moments of a run."""
    total = _CLOCK_STEPS if math.isinf(num_steps) else max(1, int(num_steps))
    moments = [round(point * total / max(1, points - 1)) for point in range(points)]
    runs = [Progress(step, total, step_samples=step_samples) for step in moments]
    return [schedule.at(run) for run in runs]


def _optimizer_steps(trainer: Trainer, partition: EpochPartition, num_steps: float) -> float:
    """Return the number of steps of a run from start to end, on these ranks."""
    if math.isinf(num_steps) or not partition.stages:
        return num_steps
    samples = round(num_steps * partition.step_samples)
    return steps_for(partition, samples, trainer.limit_train_batches)


def _ends_by(trainer: Trainer) -> str:
    limits = {
        "max_steps": trainer.max_steps if trainer.max_steps >= 0 else None,
        "max_epochs": trainer.max_epochs if (trainer.max_epochs or -1) >= 0 else None,
        "max_time": time_budget(trainer),
    }
    return " or ".join(f"{name} {value}" for name, value in limits.items() if value is not None)


def _limits(trainer: Trainer, batches: int) -> dict[str, float]:
    """Return the steps that ``max_steps`` and ``max_epochs`` allow, if set."""
    limits: dict[str, float] = {}
    if trainer.max_steps >= 0:
        limits["max_steps"] = trainer.max_steps
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        steps = math.ceil(batches / trainer.accumulate_grad_batches)
        limits["max_epochs"] = trainer.max_epochs * steps
    return limits


def _notes(
    trainer: Trainer,
    module: ContrastiveModule,
    data: DataPlan,
    captions: CaptionPlan,
    num_workers: int,
) -> list[str]:
    notes = []
    if captions.num_joined:
        notes.append(
            f"{captions.num_joined} of {captions.num_read} texts have several lines and are one "
            f"caption each; if every line is a caption, set --data.samples.caption=TextField "
            f"--data.samples.caption.one_per_line=true (false keeps the lines joined)"
        )
    if not data.is_exact:
        notes.append(
            "the order is not exact: webdataset shuffles anew at every start, so that a resumed "
            "run repeats some samples and misses others; the length of an epoch is declared"
        )
    num_readers = data.world_size * max(1, num_workers)
    if not data.is_exact and 0 < data.num_shards < num_readers:
        notes.append(
            f"{data.num_shards} shards for {num_readers} workers of all ranks: some samples may "
            f"be twice in a batch; use fewer workers, or data.train without data.storage.webdataset"
        )
    if not reads_captions(module.encoder, module.loss):
        notes.append("the objective uses no captions: the text tower does not run over them")
    if not callbacks_of(trainer, SaveCheckpoint):
        notes.append("no SaveCheckpoint among trainer.callbacks: an interrupted run is lost")
    dropped = data.num_samples % samples_of_step(trainer, data.batch_size)
    if dropped > data.num_samples / 20:
        notes.append(
            f"{dropped} of {data.num_samples} samples are dropped in every epoch, too few for a "
            f"step of {samples_of_step(trainer, data.batch_size)}; different ones each time"
        )
    return notes


def _is_compiled(encoder: TowerEncoder) -> bool:
    """Return whether a forward pass of another size would cause a compilation."""
    return any(
        type(part).__name__ == "OptimizedModule"
        or is_compiled(part)
        or getattr(part.forward, "compile_options", None) is not None
        for part in encoder.modules()
    )
