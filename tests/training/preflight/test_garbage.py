"""The estimate of memory collects its own garbage alone."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from clipkit.training.preflight.memory import bytes_kept_by
from tests.helpers import tiny


class Cycle:
    """An object that only a collection frees, with a tensor."""

    def __init__(self) -> None:
        self.itself, self.tensor = self, torch.ones(1000) * 2


def old_garbage() -> weakref.ref[Cycle]:
    """A cycle that survived collections before nothing referred to it any more."""
    cycle = Cycle()
    gc.collect()
    return weakref.ref(cycle)


@pytest.mark.parametrize("enabled", [False, True])
def test_only_new_garbage_is_collected(enabled: bool) -> None:
    """What a caller turned off stays off."""
    old = old_garbage()
    gc.enable() if enabled else gc.disable()
    try:
        kept = bytes_kept_by(lambda: (Cycle(), None)[1], tiny.encoder(), ())
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert kept == 0
    assert old() is not None
