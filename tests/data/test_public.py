"""What `clipkit.data` offers by name, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import clipkit.data
import clipkit.metrics


@pytest.mark.parametrize("package", [clipkit.data, clipkit.metrics])
def test_public_names_are_not_modules(package: ModuleType) -> None:
    assert len(package.__all__) > 1
    for name in package.__all__:
        # A name that is also a module's would mean one thing before its import and another after.
        assert not isinstance(getattr(package, name), ModuleType), name
    assert sorted(dir(package)) == sorted(package.__all__)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="attribute Nothing"):
        clipkit.data.Nothing  # noqa: B018


def test_indexing_needs_no_torch() -> None:
    code = "import sys; from clipkit.data import ShardIndex; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
