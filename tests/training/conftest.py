"""What all tests of training need."""

from __future__ import annotations

from tests.helpers.quick_trainers import _quick_trainers  # noqa: F401
