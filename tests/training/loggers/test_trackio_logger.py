"""The logger of trackio, against a stand-in for the package; tests/cli runs the package itself."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from clipkit.training import TrackioLogger


@pytest.fixture
def starts(monkeypatch):
    """Return the options of each start of a run."""
    found = []

    def init(**options):
        found.append(options)
        name = options["name"] or "chosen"
        return SimpleNamespace(name=name, log=lambda *_, **__: None, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    return found


@pytest.mark.parametrize("resume", ["allow", "must", "never"])
@pytest.mark.parametrize("name", [None, "tiny"])
def test_a_second_fit_continues_the_run_of_the_first(starts, name, resume):
    logger = TrackioLogger("clipkit", name, resume)
    for _ in range(2):
        logger.log_metrics({"train/loss": 1.0}, step=0)
        logger.finalize("success")
    assert [start["name"] for start in starts] == [name, name or "chosen"]
    assert [start["resume"] for start in starts] == [resume if name else "never", "allow"]
