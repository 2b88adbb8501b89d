"""Tests that need one CUDA device; everywhere else they are skipped, unless a CPU is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.gpu.device import IS_CUDA

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, and skip it without a GPU."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if IS_CUDA and not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
