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


@pytest.mark.parametrize("frozen", [False, True])
def test_only_new_garbage_is_collected(frozen: bool) -> None:
    """What a caller froze stays frozen, and nothing else does."""
    gc.freeze() if frozen else gc.unfreeze()
    gc.disable()
    try:
        old = weakref.ref(Cycle())
        kept = bytes_kept_by(lambda: (Cycle(), None)[1], tiny.encoder(), ())
        assert kept == 0
        assert (gc.get_freeze_count() > 0) == frozen
        assert (old() is None) == frozen
    finally:
        gc.enable()
        gc.freeze()
