"""What Lightning repeats in each trainer or step, and needs once in a process or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
from lightning.fabric.utilities import registry
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric


@pytest.fixture(autouse=True, scope="package")
def _quick_trainers() -> Iterator[None]:
    """Search installed packages once, and move no logged value to where it is.

    The first takes 15 ms in each trainer, the second a sixth of the time of a tiny step.
    """
    move = _ResultMetric.to

    def move_elsewhere(metric: _ResultMetric, *args: Any, **options: Any) -> _ResultMetric:
        value = getattr(metric, "value", None)
        if isinstance(value, torch.Tensor) and not options and args == (value.device,):
            return metric
        return move(metric, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", cache(entry_points))
        patch.setattr(_ResultMetric, "to", move_elsewhere)
        yield
