"""Set torch's global switches for the speed of a GPU."""

from __future__ import annotations

import logging
from typing import Any, Final, Literal, final, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.errors import check_choice

_LOG: Final = logging.getLogger(__name__)
MatmulPrecision = Literal["highest", "high", "medium"]


@final
class TorchBackends(Callback):
    """Sets torch's switches of precision and cuDNN during a fit, and restores them afterwards.

    The defaults are those of training at speed. Both switches change rounding: with
    ``cudnn_benchmark`` also from run to run, for convolutions, because the fastest algorithm may be
    another one each time. In a run with ``trainer.deterministic`` it stays off, and a line in the
    log reports it. It has priority over ``trainer.benchmark``.

    Args:
        float32_matmul_precision: Precision of products of float32 matrices outside of autocast:
            "highest" for float32, "high" for TF32 on GPUs that have it, "medium" for bfloat16.
        cudnn_benchmark: Whether cuDNN measures its algorithms for each new shape of a convolution,
            and uses the fastest.

    Raises:
        ConfigError: If ``float32_matmul_precision`` is unknown.

    Examples:
        >>> trainer = Trainer(callbacks=[TorchBackends(float32_matmul_precision="high")])
    """

    def __init__(
        self, float32_matmul_precision: MatmulPrecision = "high", cudnn_benchmark: bool = True
    ) -> None:
        check_choice(
            "TorchBackends.float32_matmul_precision",
            float32_matmul_precision,
            get_args(MatmulPrecision),
        )
        self.float32_matmul_precision = float32_matmul_precision
        self.cudnn_benchmark = cudnn_benchmark
        self._before: tuple[str, bool] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the switches before a fit."""
        if stage != "fit" or self._before is not None:
            return
        self._before = (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark)
        benchmark = self.cudnn_benchmark
        if benchmark and torch.are_deterministic_algorithms_enabled():
            benchmark = False
            _LOG.warning(
                "TorchBackends.cudnn_benchmark: off, because of trainer.deterministic; set it to "
                "false to omit this line"
            )
        _set(self.float32_matmul_precision, benchmark)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the switches."""
        self.on_exception()

    def on_exception(self, *_: Any) -> None:
        """Restore the switches."""
        if self._before is not None:
            _set(*self._before)
            self._before = None


def _set(precision: str, benchmark: bool) -> None:
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark = benchmark
