"""Find options of a run that cannot work, and options without effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch

from clipkit.errors import ConfigError

_HALF: Final = ("16", "16-mixed", "16-true")
_BFLOAT: Final = ("bf16", "bf16-mixed", "bf16-true")
_HALF_WEIGHTS: Final = ("16-true", "bf16-true")


def check_precision(precision: str, device: torch.device) -> None:
    """Check whether a device can train in a precision.

    Lightning silently changes 16-mixed on a CPU to bf16-mixed. Weights in half precision do not
    learn: near the logarithm of the usual scale bfloat16 numbers are 0.016 apart, and the steps of
    an optimizer, a thousandth of that, are rounded away.

    Raises:
        ConfigError: If it cannot.
    """
    if precision in _HALF_WEIGHTS:
        raise ConfigError(
            f"trainer.precision: {precision} stores weights in half precision, which rounds small "
            f"updates away (logit_scale never moves); use bf16-mixed"
        )
    if precision in _HALF and device.type == "cpu":
        raise ConfigError(
            f"trainer.precision: {precision} is not for a CPU; use bf16-mixed or 32-true"
        )
    if precision in _BFLOAT and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise ConfigError(
            f"trainer.precision: {torch.cuda.get_device_name(device)} has no bfloat16; use "
            f"16-mixed or 32-true"
        )


def check_windows(batches_per_epoch: int, accumulate: int) -> None:
    """Check whether an epoch fills a window of accumulated gradients."""
    if accumulate > batches_per_epoch:
        raise ConfigError(
            f"trainer.accumulate_grad_batches: {accumulate} batches make a step, an epoch has "
            f"{batches_per_epoch}; accumulate fewer, or use smaller batches"
        )


def unused_options(config: Mapping[str, Any], num_steps_by: Mapping[str, float]) -> list[str]:
    """List options that are set and have no effect, each with the reason.

    Examples:
        >>> unused_options({"data": {"val": None, "validation": {"batch_size": 8}}}, {})
        ['data.validation.batch_size: there is no data.val']
    """
    data, trainer = config.get("data") or {}, config.get("trainer") or {}
    model = config.get("model") or {}
    return [
        *_without_validation(data, trainer),
        *_of_labels(data, model.get("loss") or {}),
        *_of_step_and_trainer(data, model, trainer, num_steps_by),
    ]


def _without_validation(data: Mapping[str, Any], trainer: Mapping[str, Any]) -> Iterator[str]:
    if data.get("val"):
        return
    for name, value in (data.get("validation") or {}).items():
        if value is not None:
            yield f"data.validation.{name}: there is no data.val"
    for name in ("val_check_interval", "limit_val_batches"):
        if trainer.get(name) is not None:
            yield f"trainer.{name}: there is no data.val"
    callbacks = trainer.get("callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        monitor = (callback.get("init_args") or {}).get("monitor")
        if isinstance(monitor, str) and monitor.startswith("val/"):
            kind = str(callback.get("class_path")).rsplit(".", 1)[-1]
            yield f"trainer.callbacks: {kind}.monitor {monitor}: there is no data.val"


def _of_labels(data: Mapping[str, Any], loss: Mapping[str, Any]) -> Iterator[str]:
    terms = [
        loss.get("contrastive"),
        *((t or {}).get("loss") for t in (loss.get("terms") or {}).values()),
    ]
    paths = [str(term.get("class_path", "")) for term in terms if term]
    uses_labels = loss.get("label") is not None or any("Label" in path for path in paths)
    if not uses_labels and (data.get("samples") or {}).get("label_field") not in (None, "cls"):
        yield "data.samples.label_field: no loss uses labels"


def _of_step_and_trainer(
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    trainer: Mapping[str, Any],
    num_steps_by: Mapping[str, float],
) -> Iterator[str]:
    size, batch_size = model.get("micro_batch_size"), data.get("batch_size")
    if size is not None and batch_size is not None and size >= batch_size:
        yield f"model.micro_batch_size: a batch has no more than {batch_size} pairs"
    first = min(num_steps_by, key=lambda name: num_steps_by[name], default="")
    for name in num_steps_by:
        if num_steps_by[name] > num_steps_by[first]:
            yield f"trainer.{name}: trainer.{first} ends the run before"
    if trainer.get("gradient_clip_algorithm") and not trainer.get("gradient_clip_val"):
        yield "trainer.gradient_clip_algorithm: there is no gradient_clip_val"
