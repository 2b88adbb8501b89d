"""The device of these tests: CUDA, or a CPU to find errors of the tests themselves."""

from __future__ import annotations

import os
from typing import Final

import pytest
import torch

DEVICE: Final = torch.device(os.environ.get("CLIPKIT_GPU_TESTS_ON", "cuda"))
"""``CLIPKIT_GPU_TESTS_ON=cpu`` runs everything but what only CUDA has."""

IS_CUDA: Final = DEVICE.type == "cuda"
ACCELERATOR: Final = "gpu" if IS_CUDA else "cpu"

only_cuda = pytest.mark.skipif(not IS_CUDA, reason="CUDA alone has this")
