"""The functions are there without torchmetrics and what it brings along."""

from __future__ import annotations

import subprocess
import sys

import pytest

import clipkit.metrics


def test_functions_do_not_wait_for_torchmetrics():
    code = "import sys, clipkit.metrics.functional; print('torchmetrics' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_name_is_found():
    for name in clipkit.metrics.__all__:
        assert getattr(clipkit.metrics, name).__name__ == name
    with pytest.raises(AttributeError, match="Nothing"):
        _ = clipkit.metrics.Nothing
