"""What an evaluator is: it knows an encoder and its own data, and no trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from clipkit.distributed.unsharded import unsharded
from clipkit.errors import ConfigError
from clipkit.models import DualEncoder

_PRECISIONS: Final = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Evaluator(ABC):
    """Measures an encoder on data of its own.

    Attributes:
        class_names: Names of the data's classes, in the order of their numbers; none where the
            evaluator measures no classes, or the data do not name them.
    """

    class_names: tuple[str, ...] = ()

    @abstractmethod
    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Measure.

        Args:
            encoder: The model, on the device where it is to run. Its training mode and its
                gradients are as before afterwards. Over several ranks, every rank calls this with
                the same encoder and gets the same numbers.

        Returns:
            Metric keys and values.
        """


@contextmanager
def evaluating(encoder: DualEncoder, precision: str = "fp32") -> Iterator[None]:
    """Evaluation mode, no gradients, and the asked precision; the mode is restored afterwards.

    Args:
        encoder: The model. Each of its parts gets its own mode back: a frozen tower that was in
            evaluation mode stays there. One that is sharded over ranks is gathered once.
        precision: "fp32", "bf16" or "fp16"; the latter two by autocast.

    Raises:
        ConfigError: If the precision is unknown.
    """
    check_precision(precision)
    modes = [(module, module.training) for module in encoder.modules()]
    device, dtype = encoder.log_logit_scale.device, _PRECISIONS[precision]
    encoder.eval()
    try:
        with (
            torch.no_grad(),
            torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None),
            unsharded(encoder),
        ):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_precision(precision: str) -> None:
    """Refuse a precision that is not known.

    Raises:
        ConfigError: If it is not.
    """
    if precision not in _PRECISIONS:
        known = ", ".join(_PRECISIONS)
        raise ConfigError(f"precision: expected one of {known}, got {precision!r}")
