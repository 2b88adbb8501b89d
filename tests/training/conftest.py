"""What all tests of training need."""

from __future__ import annotations

from tests.helpers.installed_once import _installed_once  # noqa: F401
