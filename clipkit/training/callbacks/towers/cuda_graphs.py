"""Refuse runs whose steps cannot be recorded as CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator

from lightning.pytorch import LightningModule, Trainer

from clipkit.errors import ConfigError
from clipkit.models import TowerEncoder
from clipkit.training.callbacks.towers.token_schedule import TokenSchedule
from clipkit.training.lightning_compat import callbacks_of, encoder_of
from clipkit.training.progress.run_progress import pair_data


def check_cuda_graphs(trainer: Trainer, module: LightningModule, text_multiple: int) -> None:
    """Refuse a run in which a tower reads batches of more than one shape, or overlapping ones.

    A CUDA graph is a recording of kernels with fixed shapes and addresses: every other shape would
    be recorded once more, and the results of a replay are overwritten by the next one.

    Args:
        trainer: The trainer of the run.
        module: The module that is trained.
        text_multiple: Captions have a multiple of this number of tokens, or the tower's length.

    Raises:
        ConfigError: Naming each option that is in the way, and what it should be.
    """
    obstacles = [*of_device(trainer), *of_shapes(trainer, module, text_multiple)]
    obstacles += of_accumulation(trainer)
    if obstacles:
        raise ConfigError(
            f"CompileTowers.mode: CUDA graphs need batches of one shape; {'; '.join(obstacles)}. "
            f"Without CUDA graphs, omit mode or use max-autotune-no-cudagraphs"
        )


def of_device(trainer: Trainer) -> Iterator[str]:
    """Yield what is in the way of CUDA graphs on this device."""
    device = trainer.strategy.root_device
    if device.type != "cuda":
        yield f"expected a GPU, got {device.type}"


def of_accumulation(trainer: Trainer) -> Iterator[str]:
    """Yield what makes several passes overlap, of which each overwrites the one before."""
    if trainer.accumulate_grad_batches != 1:
        yield (
            f"trainer.accumulate_grad_batches: expected 1, got {trainer.accumulate_grad_batches}"
        )


def of_shapes(trainer: Trainer, module: LightningModule, text_multiple: int) -> Iterator[str]:
    """Yield what gives the batches of a run more than one shape.

    Args:
        trainer: The trainer of the run.
        module: The module that is trained.
        text_multiple: Captions have a multiple of this number of tokens, or the tower's length.
    """
    yield from _of_towers(encoder_of(module), text_multiple)
    yield from _of_batches(trainer, getattr(module, "micro_batch_size", None))


def _of_towers(encoder: TowerEncoder, text_multiple: int) -> Iterator[str]:
    text = encoder.text_tower
    if text.trims_exactly and text_multiple < text.context_length:
        yield (
            f"text_multiple: expected the context length {text.context_length}, because the "
            f"lengths of captions vary, got {text_multiple}"
        )
    if encoder.image_tower.budget is not None:
        yield "image_tower: expected a tower of images of one shape, got one of any shape"
    further = [name for name in encoder.towers if name not in ("image", "text")]
    if further:
        yield (
            f"model.encoder: expected an image and a text tower alone, because the numbers of "
            f"samples that have another modality vary, got {', '.join(further)}"
        )


def _of_batches(trainer: Trainer, micro_batch_size: int | None) -> Iterator[str]:
    if micro_batch_size is not None:
        yield f"model.micro_batch_size: expected null, got {micro_batch_size}"
    data = pair_data(trainer)
    if data is not None and data.order.batch_size_stages:
        yield "data.order.batch_size_stages: expected none"
    if callbacks_of(trainer, TokenSchedule):
        yield "TokenSchedule: expected none"
