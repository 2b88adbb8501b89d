"""What packages offer by name."""

from __future__ import annotations

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


@pytest.mark.parametrize("package", [clipkit.data, clipkit.metrics])
def test_unknown_names_are_refused(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        _ = package.Nothing
