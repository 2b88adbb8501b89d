"""What `clipkit.data` offers by name, and what importing it costs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

import clipkit.data


@pytest.mark.parametrize("name", clipkit.data.__all__)
def test_every_public_name_is_what_its_module_holds(name: str) -> None:
    module = importlib.import_module(f"clipkit.data.{clipkit.data._EXPORTS[name]}")
    found = getattr(clipkit.data, name)
    assert found is getattr(module, name)
    # A name that is also a module's would mean one thing before its import and another after.
    assert not isinstance(found, ModuleType)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        clipkit.data.Nothing  # noqa: B018
    assert dir(clipkit.data) == clipkit.data.__all__


def test_indexing_needs_no_torch() -> None:
    code = "import sys; from clipkit.data import ShardIndex; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
