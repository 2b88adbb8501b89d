"""The examples in the docstrings of losses and metrics are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import clipkit.losses
import clipkit.metrics

MODULES = ["clipkit.distributed.collectives"] + [
    module.name
    for package in (clipkit.losses, clipkit.metrics)
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
