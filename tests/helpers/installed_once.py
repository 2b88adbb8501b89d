"""Trainers that search the installed packages once in a process, not each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points

import pytest
from lightning.fabric.utilities import registry


@pytest.fixture(autouse=True, scope="package")
def _installed_once() -> Iterator[None]:
    """Lightning looks for packages that add callbacks, 15 ms in each trainer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", cache(entry_points))
        yield
