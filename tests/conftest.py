"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def real_data() -> Path:
    """The folder of real files that CLIPKIT_REAL_DATA names; skips where it is absent."""
    folder = os.environ.get("CLIPKIT_REAL_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CLIPKIT_REAL_DATA does not name a folder of real files")
    return Path(folder)
